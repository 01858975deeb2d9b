"""Leases on files (fcntl(2)): the kernel grants one only if no other process has the file open."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

_F_SETSIG = 10


def take(path: str | Path, kind: int) -> int:
    """Take a lease; return the descriptor that keeps it until it is closed.

    :param kind: `F_RDLCK`, granted if no process has the file open for writing; `F_WRLCK`, if none has it open at
        all.
    :raises BlockingIOError: a process has the file open.
    :raises OSError: the filesystem does not support leases.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # The kernel signals us when a process opens the file during the lease; SIGURG is ignored by default.
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, kind)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
