"""Pipes from other processes, read without waking up for each page that goes through them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

_F_SETPIPE_SZ = 1031
_F_GETPIPE_SZ = 1032
# The default limit for users (pipe(7), pipe-max-size).
_PIPE_BYTES = 1 << 20
# Nobody is so quick that a pipe would be full when we look again.
_BYTES_PER_SECOND = 1e9
_LEAST_SECONDS = 0.0002


def enlarge(descriptor: int) -> None:
    """Let a pipe hold more, if the system allows it."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)


def read_all(descriptor: int) -> Iterator[bytes]:
    """Yield what comes out of a pipe, in blocks of many pages as long as there is much."""
    while block := os.read(descriptor, _PIPE_BYTES):
        yield block
        if len(block) < _PIPE_BYTES // 8:
            _wait(descriptor)


def _wait(descriptor: int) -> None:
    time.sleep(max(fcntl.fcntl(descriptor, _F_GETPIPE_SZ) / _BYTES_PER_SECOND, _LEAST_SECONDS))
