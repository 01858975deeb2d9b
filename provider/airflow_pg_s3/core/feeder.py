"""Feeds pg_restore the large members of an archive through named pipes.

pg_restore opens each member once and reads it to its end, so a member can be a FIFO. A FIFO can be opened for
writing without waiting only when somebody reads it (fifo(7)): so a download begins when pg_restore asks for the
member, and members that it never asks for are never fetched.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from airflow_pg_s3.core.codec import Decoder
from airflow_pg_s3.core.download import Downloader
from airflow_pg_s3.core.errors import IntegrityError, PgS3Error
from airflow_pg_s3.core.holding import Hold, LetGo
from airflow_pg_s3.core.manifest import Member
from airflow_pg_s3.core.pipe import enlarge, write_all
from airflow_pg_s3.core.toc import LargeObjectNames
from airflow_pg_s3.core.upload import StoredObject


class NotReadError(PgS3Error):
    """pg_restore left out what it should have restored."""


class CheckedMember:
    """Passes the bytes of a member on, the last of them only when all of them have proved right.

    So whoever reads never sees the regular end of a damaged member.

    :param target: file descriptor to write to; closed by `close`.
    :param stop: set to give up while the target is a pipe that nobody reads.
    :param let_go: called once the target is closed, if somebody else holds it, too.
    """

    def __init__(
        self,
        member: Member,
        target: int,
        stop: threading.Event | None = None,
        let_go: LetGo = lambda: None,
    ) -> None:
        self._member = member
        self._target = target
        self._stop = stop
        self._let_go = let_go
        self._sha256 = hashlib.sha256()
        self._passed_bytes = 0
        self._held_back = b""
        self._is_closed = False
        self._names = LargeObjectNames() if member.name.endswith(".toc") else None

    @property
    def passed_bytes(self) -> int:
        """Bytes taken so far."""
        return self._passed_bytes

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(chunk)
        self._passed_bytes += len(chunk)
        if self._passed_bytes > self._member.raw_bytes:
            raise IntegrityError(f"is longer than the {self._member.raw_bytes} bytes backed up")
        if self._names is not None:
            self._names.update(chunk)
        write_all(self._target, self._held_back, self._stop)
        self._held_back = chunk

    def close(self) -> None:
        """Check all, then let the end pass.

        :raises IntegrityError: they are not the bytes that were backed up.
        """
        if self._names is not None:
            self._names.finish()
        sha256 = self._sha256.hexdigest()
        if (self._passed_bytes, sha256) != (self._member.raw_bytes, self._member.sha256):
            raise IntegrityError(
                f"has {self._passed_bytes} bytes with SHA-256 {sha256}, but {self._member.raw_bytes} with "
                f"{self._member.sha256} were backed up"
            )
        write_all(self._target, self._held_back, self._stop)
        self.abandon()

    def abandon(self) -> None:
        """Close the target, wherever it is."""
        if not self._is_closed:
            self._is_closed = True
            self._held_back = b""  # of hundreds of members, it would be all the memory there is
            os.close(self._target)
            self._let_go()


class Feeder:
    """Serves members as FIFOs in a folder. `serve` is called again and again on one thread.

    :param folder: where pg_restore looks for them.
    :param threads: members fed at the same time: as many as pg_restore has jobs.
    :param hold: keeps a pipe from ending when this process dies.
    """

    def __init__(
        self,
        folder: Path,
        members: Sequence[Member],
        objects: Mapping[str, StoredObject],
        *,
        downloader: Downloader,
        decoder: Decoder,
        threads: int,
        hold: Hold,
    ) -> None:
        self._objects = objects
        self._downloader = downloader
        self._decoder = decoder
        self._hold = hold
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="feed")
        self._fed: list[tuple[Member, Future[None]]] = []
        self._waiting: dict[Path, Member] = {}
        for member in members:
            path = folder / member.name
            os.mkfifo(path, 0o600)
            self._waiting[path] = member
        self._targets: list[CheckedMember] = []

    def __enter__(self) -> Feeder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._downloader.cancel.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        # Those of members that failed. They stayed open so that pg_restore, which has ended by now, could not
        # take a failure for the member's end.
        for target in self._targets:
            target.abandon()

    def serve(self) -> None:
        """Begin to feed what pg_restore has opened since the last call.

        :raises IntegrityError: a member fed before is not what was backed up.
        :raises StorageError: S3 failed.
        """
        for path, member in list(self._waiting.items()):
            if (descriptor := _open_if_read(path)) is not None:
                del self._waiting[path]
                let_go = self._hold(descriptor)
                target = CheckedMember(member, descriptor, self._downloader.cancel, let_go)
                self._targets.append(target)
                self._fed.append((member, self._pool.submit(self._feed, member, target)))
        for _, future in self._fed:
            # A reader who went away is about to say why; finish() is for those who stay silent.
            if future.done() and not isinstance(future.exception(), NotReadError):
                future.result()

    @property
    def fed_bytes(self) -> int:
        """Bytes fed so far, over all members."""
        return sum(target.passed_bytes for target in self._targets)

    def finish(self) -> None:
        """Make sure that pg_restore, which has ended well, has read all members to their ends.

        :raises NotReadError: it has not.
        """
        for _, future in self._fed:
            future.result()
        for member in self._waiting.values():
            raise NotReadError(f"pg_restore has not asked for {called(member)}")

    def _feed(self, member: Member, target: CheckedMember) -> None:
        try:
            objects = [self._objects[key] for key in member.objects]
            self._decoder.decode(self._downloader.stream(objects), target.write)
            target.close()
        except IntegrityError as error:
            raise IntegrityError(f"{called(member)} {error}") from error
        except BrokenPipeError as error:
            raise NotReadError(f"pg_restore has not read all of {called(member)}") from error


def _open_if_read(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    enlarge(descriptor)
    return descriptor


def called(member: Member) -> str:
    """Name a member for people."""
    if member.table is None:
        return f"the archive's member {member.name}"
    return f"the data of {member.table.schema_name}.{member.table.name} ({member.name})"
