"""The folder that pg_dump writes an archive into, used as a ring buffer.

pg_dump can write the directory format only into a folder, but writes each member from its beginning to its end.
So each member is read while it grows, and what has been read is given back to the disk by punching a hole
behind the reader (fallocate(2)). When the unread rest grows over a limit, the caller pauses pg_dump.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airflow_pg_s3.core.errors import Cancelled, InputError, PgS3Error
from airflow_pg_s3.core.postgres.archive.toc import TOC
from airflow_pg_s3.core.workspace import file_lease

READ_BYTES = 1 << 20
_BLOCK = 4096
_POLL_SECONDS = 0.005
_PROBE_SECONDS = 1.0
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@dataclass
class SpooledMember:
    """One file of the archive that is not finished.

    :param size: bytes written so far, as of the last look.
    :param shipped: bytes read, hashed and handed on.
    :param closed_looks: looks in a row at which pg_dump had it closed.
    :param assigned: somebody reads it, or is about to.
    """

    name: str
    path: str
    size: int = 0
    shipped: int = 0
    closed_looks: int = 0
    assigned: bool = False

    @property
    def is_closed(self) -> bool:
        """True if pg_dump is done with it.

        One look is not enough for an empty file: when it is being created, it exists a moment before it is open.
        """
        return self.closed_looks > 1


class Spool:
    """Reads an archive while pg_dump writes it.

    :param folder: an existing private folder on a local filesystem; the archive goes into a folder within it.
    :param cancel: when set, readers that wait for pg_dump raise `Cancelled`.
    :raises InputError: the filesystem cannot tell when pg_dump has closed a file.
    """

    def __init__(self, folder: Path, *, cancel: threading.Event) -> None:
        self._cancel = cancel
        self.archive = folder / "archive"
        self._shipped_folder = folder / "shipped"
        self._shipped_folder.mkdir(mode=0o700)
        self._open: dict[str, SpooledMember] = {}
        self._shipped: dict[str, int] = {}
        self._finished_bytes = 0
        self._lock = threading.Lock()
        self._all_closed = threading.Event()
        self.can_punch_holes = True
        _probe(folder)

    def look(self) -> list[SpooledMember]:
        """Look at the folder; return the members that nobody reads yet, those closed by pg_dump first.

        Called on one thread.
        """
        with contextlib.suppress(FileNotFoundError), os.scandir(self.archive) as entries:
            for entry in entries:
                if entry.name not in self._open and entry.name not in self._shipped:
                    self._open[entry.name] = SpooledMember(name=entry.name, path=entry.path)
        members = list(self._open.values())
        for member in members:
            if not member.is_closed:
                # Its reader may finish it just now.
                with contextlib.suppress(FileNotFoundError):
                    self._look_at(member)
        return sorted((m for m in members if not m.assigned), key=lambda m: not m.is_closed)

    def _look_at(self, member: SpooledMember) -> None:
        was_open = os.stat(member.path).st_size > 0
        # First whether it is closed, then its size: only then is that size final.
        member.closed_looks = member.closed_looks + 1 + was_open if self._is_closed(member.path) else 0
        member.size = os.stat(member.path).st_size

    def used_bytes(self) -> int:
        """Disk space of what is written and not yet shipped, as of the last look.

        Without the archive's lists: they are shipped only when pg_dump has written all of them, so that whoever
        stopped it because of them would wait for ever.
        """
        members = [m for m in list(self._open.values()) if m.name != TOC and not m.name.endswith(".toc")]
        return sum(-(-(m.size - m.shipped) // _BLOCK) * _BLOCK for m in members if m.size > m.shipped)

    def all_closed(self) -> None:
        """Say that pg_dump has exited."""
        self._all_closed.set()

    def read(self, member: SpooledMember) -> Iterator[bytes]:
        """Yield the bytes of a member in order, until pg_dump has closed it; give the space back behind.

        :raises Cancelled: told to stop while waiting.
        """
        descriptor = os.open(member.path, os.O_RDONLY)
        try:
            # What is small and closed is read at once; its space is given back when it is finished.
            is_whole = member.is_closed and member.size < READ_BYTES
            count = member.size + 1 if is_whole else READ_BYTES
            while True:
                # Closed first, then read: what was written in between must not be missed.
                closed = member.is_closed
                chunk = os.read(descriptor, count)
                if not chunk and not closed:
                    closed = self._is_closed(member.path)
                    chunk = os.read(descriptor, count)
                if chunk:
                    yield chunk
                    if not is_whole:
                        self._give_back(member, len(chunk))
                    member.shipped += len(chunk)
                elif closed:
                    break
                # Many small reads would take more time than pg_dump has to write what is worth one.
                if len(chunk) < count and not closed and self._cancel.wait(_POLL_SECONDS):
                    raise Cancelled(f"stopped while reading {member.name}")
        finally:
            os.close(descriptor)
        self._finish(member)

    def check_complete(self) -> None:
        """Compare what was shipped with what pg_dump left, after it has exited.

        :raises PgS3Error: a byte was written after its file was taken for finished, or a file was not read.
        """
        for name in self._open:
            raise PgS3Error(f"the archive's member {name} was not shipped")
        for name, shipped in self._shipped.items():
            size = os.stat(f"{self._shipped_folder}/{name}").st_size
            if size != shipped:
                raise PgS3Error(f"the archive's member {name} has {size} bytes, but {shipped} were shipped")

    @property
    def shipped_bytes(self) -> int:
        """Bytes read and handed on so far."""
        return sum(m.shipped for m in list(self._open.values())) + self._finished_bytes

    @property
    def members_finished(self) -> int:
        """How many members were read to their end."""
        return len(self._shipped)

    @property
    def members_seen(self) -> int:
        """How many members pg_dump has begun."""
        return len(self._open) + len(self._shipped)

    def _is_closed(self, path: str) -> bool:
        return self._all_closed.is_set() or _has_no_writer(path)

    def _give_back(self, member: SpooledMember, count: int) -> None:
        if self.can_punch_holes:
            # Only whole blocks are given back: the last one of before may be whole by now.
            start = member.shipped // _BLOCK * _BLOCK
            self.can_punch_holes = punch_hole(member.path, start, member.shipped + count - start)

    def _finish(self, member: SpooledMember) -> None:
        # Before the rename: look() must not take the name for a new one.
        with self._lock:
            self._shipped[member.name] = member.shipped
            self._finished_bytes += member.shipped
        # The file stays, without its blocks, so that check_complete can see its size at the end; out of the
        # way, so that looking at 100,000 members is not looking at all of them each time.
        target = f"{self._shipped_folder}/{member.name}"
        os.rename(member.path, target)
        if os.stat(target).st_size == member.shipped:
            os.truncate(target, 0)
            os.truncate(target, member.shipped)
        del self._open[member.name]


def punch_hole(path: str | Path, start: int, count: int) -> bool:
    """Give the blocks of some bytes of a file back to the disk; say whether its filesystem can.

    :raises OSError: it can, and failed.
    """
    with open(path, "r+b", buffering=0) as file:
        mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        if _libc.fallocate64(file.fileno(), mode, start, count) == 0:
            return True
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number), path)
        return False


def _has_no_writer(path: str | Path) -> bool:
    """True if no process has the file open for writing: the kernel grants a read lease exactly then."""
    try:
        descriptor = file_lease.take(path, fcntl.F_RDLCK)
    except BlockingIOError:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        os.close(descriptor)
    return True


def _probe(folder: Path) -> None:
    probe = folder / "probe"
    try:
        with open(probe, "wb"):
            if _has_no_writer(probe):
                raise OSError(errno.EOPNOTSUPP, "leases do not see writers")
        # A program that another thread is just starting has the file open as well, for a moment.
        deadline = time.monotonic() + _PROBE_SECONDS
        while not _has_no_writer(probe):
            if time.monotonic() > deadline:
                raise OSError(errno.EOPNOTSUPP, "leases are refused")
            time.sleep(_POLL_SECONDS)
    except OSError as error:
        raise InputError(
            f"spool_dir {folder.parent.parent} is on a filesystem without file leases ({error.strerror}): "
            "choose a folder on a local disk or tmpfs"
        ) from error
    finally:
        probe.unlink(missing_ok=True)
