"""Resources of the machine: free disk space, checked before something is written; advice if one is exhausted."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.reporting import human

ADVICE = {
    errno.ENOSPC: "make room, or give a spool_dir with more",
    errno.EDQUOT: "make room, or give a spool_dir with more",
    errno.EMFILE: "raise the worker's limit on open files (ulimit -n), or use fewer jobs",
    errno.ENFILE: "the machine has too many open files: raise fs.file-max, or run fewer tasks",
    errno.ENOMEM: "the worker has too little memory: use fewer jobs",
    errno.EAGAIN: "the worker has too many processes (ulimit -u): use fewer jobs",
}


def is_resource_exhaustion(error: OSError) -> bool:
    """True if the machine ran out of disk space, memory, descriptors or processes; a retry may succeed."""
    return error.errno in ADVICE


def require_free_space(folder: Path, size: int, *, what: str, instead: str = "") -> None:
    """Refuse to write more than fits on the disk.

    :param size: number of bytes that are about to be written.
    :param what: what these bytes are, for the message.
    :param instead: what would help besides a bigger disk, for the message.
    :raises InputError: the disk has less free space.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"spool_dir has {human(free)} free, but {what} takes {human(size)} there: give a spool_dir with more "
            f"room{', or ' + instead if instead else ''}"
        )
