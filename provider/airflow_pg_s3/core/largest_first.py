"""Lets a parallel pg_restore begin with the largest tables, although their data come through named pipes.

pg_restore takes the sizes of the archive's files once, and gives its workers the largest first
(``_PrepParallelRestore`` in PostgreSQL's pg_backup_directory.c). A named pipe has no size. So the data of each
table is a sparse file of its length at first, and becomes a named pipe before anybody can open it.

When that is: pg_restore's leader connects, takes the sizes, and starts the workers, which connect before they open
anything. Each connection begins with libpq reading the service file; and who holds a lease (fcntl(2)) on a file
learns when another wants to open it, and lets it wait until then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from airflow_pg_s3.core import lease
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.manifest import Member


class LargestFirst:
    """A ruse around one run of pg_restore; without effect where the filesystem does not do its part.

    Should it fail, a worker reads a file of NULs, which COPY refuses: hence only the data of tables.

    :param archive: folder of the archive, in which the data of `members` are named pipes.
    :param service_file: which each connection of pg_restore reads.
    """

    def __init__(self, archive: Path, members: Sequence[Member], service_file: Path) -> None:
        self._archive = archive
        self._members = [member for member in members if member.table is not None]
        self._service_file = service_file
        self._pipes = archive / "pipes"
        self._for_workers = service_file.with_suffix(".workers")
        self._leases: list[int] = []
        self._looked = 0.0

    def __enter__(self) -> LargestFirst:
        try:
            self._arrange()
        except OSError:
            self._put_pipes_back()
            self._release()
        self._looked = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._release()

    def look(self) -> bool:
        """Whether the named pipes are in their places; called again and again until they are.

        :raises PgS3Error: called too late.
        """
        before, self._looked = self._looked, time.monotonic()
        if self._leases and _is_wanted(self._leases[0]):
            stood_still = self._looked - before
            if stood_still > _break_seconds() / 2:
                raise PgS3Error(f"the task stood still for {stood_still:.0f} s, longer than pg_restore waits")
            if len(self._leases) == 2:
                # The leader. The workers are to find the other file, which is held as well.
                os.rename(self._for_workers, self._service_file)
            else:
                # A worker.
                self._put_pipes_back()
            os.close(self._leases.pop(0))
        return not self._leases

    def _arrange(self) -> None:
        shutil.copy(self._service_file, self._for_workers)
        _check_leases(self._service_file.with_suffix(".probe"))
        for path in (self._service_file, self._for_workers):
            self._leases.append(lease.take(path, fcntl.F_WRLCK))
        self._pipes.mkdir(mode=0o700)
        for member in self._members:
            os.rename(self._archive / member.name, self._pipes / member.name)
            with open(self._archive / member.name, "xb") as sparse:
                sparse.truncate(member.raw_bytes)

    def _put_pipes_back(self) -> None:
        for member in self._members:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._pipes / member.name, self._archive / member.name)

    def _release(self) -> None:
        while self._leases:
            os.close(self._leases.pop())


def _is_wanted(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK


def _check_leases(probe: Path) -> None:
    """Raise OSError unless this filesystem lets whoever opens a file wait for the holder of a lease."""
    probe.touch()
    descriptor = lease.take(probe, fcntl.F_WRLCK)
    try:
        os.close(os.open(probe, os.O_RDONLY | os.O_NONBLOCK))
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
    raise OSError(errno.EOPNOTSUPP, "leases have no effect", str(probe))


def _break_seconds() -> float:
    """How long the kernel lets the holder of a lease take."""
    return float(Path("/proc/sys/fs/lease-break-time").read_text())
