"""Leases on files (fcntl(2)): the kernel tells whether others have a file open, and lets them wait."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

_F_SETSIG = 10


def take(path: str | Path, kind: int) -> int:
    """Take a lease, and return the descriptor that holds it until it is closed.

    :param kind: `F_RDLCK`, granted while nobody has the file open for writing; `F_WRLCK`, while nobody has it open
        at all.
    :raises BlockingIOError: somebody has.
    :raises OSError: the filesystem knows no leases.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Who opens the file during the lease makes the kernel signal us; SIGURG is ignored by default.
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, kind)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
