"""Pipes from other processes, read in large blocks instead of page by page."""

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
# Faster than any writer, so that a pipe is never full before the next read.
_BYTES_PER_SECOND = 1e9
_LEAST_SECONDS = 0.0002


def enlarge(descriptor: int) -> None:
    """Enlarge a pipe's buffer to 1 MiB, if the system allows it."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)


def read_all(descriptor: int) -> Iterator[bytes]:
    """Yield the output of a pipe to its end, in blocks of up to 1 MiB."""
    while block := os.read(descriptor, _PIPE_BYTES):
        yield block
        if len(block) < _PIPE_BYTES // 8:
            _wait(descriptor)


def _wait(descriptor: int) -> None:
    time.sleep(max(fcntl.fcntl(descriptor, _F_GETPIPE_SZ) / _BYTES_PER_SECOND, _LEAST_SECONDS))
