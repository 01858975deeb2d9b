"""Pipes to and from other processes, without waking up for each page that goes through them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
import time
from collections.abc import Iterator

from airflow_pg_s3.core.errors import Cancelled

_F_SETPIPE_SZ = 1031
_F_GETPIPE_SZ = 1032
# The default limit for users (pipe(7), pipe-max-size).
_PIPE_BYTES = 1 << 20
# Nobody is so quick that a pipe would be empty, or full, when we look again.
_BYTES_PER_SECOND = 1e9
_LEAST_SECONDS = 0.0002
_LOOK_MILLISECONDS = 500


def enlarge(descriptor: int) -> None:
    """Let a pipe hold more, if the system allows it."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)


def write_all(descriptor: int, data: bytes, stop: threading.Event | None = None) -> None:
    """Write all of it to a pipe's end that does not block, or to a file.

    A write that blocks is woken whenever the reader has made room for a page: 250,000 switches between the two
    processes for a GB. So we wait ourselves, and longer.

    :param stop: set to give up while the pipe is full.
    :raises BrokenPipeError: nobody reads any more.
    :raises Cancelled: `stop` was set.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            _wait(descriptor)
            _wait_for_room(descriptor, stop)


def read_all(descriptor: int) -> Iterator[bytes]:
    """Yield what comes out of a pipe, in blocks of many pages as long as there is much."""
    while block := os.read(descriptor, _PIPE_BYTES):
        yield block
        if len(block) < _PIPE_BYTES // 8:
            _wait(descriptor)


def _wait_for_room(descriptor: int, stop: threading.Event | None) -> None:
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    # The reader may have other things to do for minutes.
    while not ready.poll(_LOOK_MILLISECONDS):
        if stop is not None and stop.is_set():
            raise Cancelled("stopped while nobody read from a pipe")


def _wait(descriptor: int) -> None:
    time.sleep(max(fcntl.fcntl(descriptor, _F_GETPIPE_SZ) / _BYTES_PER_SECOND, _LEAST_SECONDS))
