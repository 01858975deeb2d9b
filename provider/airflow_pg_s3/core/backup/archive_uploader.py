"""Carries the members of an archive from the spool to S3 while pg_dump writes them.

Threads: the caller's looks and hands out (`dispatch`); `jobs` readers each carry one large member; one packer
puts the small ones, in order, into packs; the uploader's threads send objects. The first failure of any of them
stops all, and is raised on the caller's thread.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from airflow_pg_s3.core.backup.chunk_cutter import cut
from airflow_pg_s3.core.backup.chunk_store import RUN_BYTES, ChunkStore, RunWriter
from airflow_pg_s3.core.backup.spool import Spool, SpooledMember
from airflow_pg_s3.core.errors import Cancelled, PgS3Error
from airflow_pg_s3.core.postgres.archive.toc import TOC
from airflow_pg_s3.core.repository.digest import MemberDigest, MemberHasher
from airflow_pg_s3.core.repository.manifest import GLOBALS
from airflow_pg_s3.core.repository.members import NO_CHUNKS, Chunks
from airflow_pg_s3.core.repository.pack import PACK_BYTES, SMALL_BYTES, TAR_END, pack_name, tar_header, tar_padding
from airflow_pg_s3.core.s3.requests import StoredObject
from airflow_pg_s3.core.s3.upload import Uploader

_POLL_SECONDS = 0.01
_LAST = (TOC, GLOBALS)


@dataclass(frozen=True, kw_only=True)
class UploadedArchive:
    """An archive that is on S3.

    :param average_bytes: how long its chunks were to be on average.
    :param store: what was counted of them.
    """

    members: list[UploadedMember]
    average_bytes: int
    store: ChunkStore


@dataclass(frozen=True, kw_only=True)
class UploadedMember:
    """A member that is on S3.

    :param pack: the pack that it is in; None if it is in chunks.
    """

    name: str
    content: MemberDigest
    pack: StoredObject | None = None
    chunks: Chunks = NO_CHUNKS


_Waiting: TypeAlias = "collections.deque[SpooledMember | None]"


class ArchiveUploader:
    """Ships one archive.

    :param store: takes the chunks of large members.
    :param folder: key prefix of the backup's objects.
    :param average_bytes: how long chunks are to be on average.
    :param jobs: large members carried at the same time; at least as many as pg_dump writes at the same time, as
        each of those must have a reader while pg_dump is paused.
    """

    def __init__(
        self,
        spool: Spool,
        uploader: Uploader,
        store: ChunkStore,
        *,
        folder: str,
        average_bytes: int,
        jobs: int,
    ) -> None:
        self.shipped: list[UploadedMember] = []
        self._spool = spool
        self._uploader = uploader
        self._store = store
        self._encoder = store.encoder
        self._folder = folder
        self._average_bytes = average_bytes
        self._packs = 0
        # No queues: SimpleQueue.get() with a timeout may wait for ever (CPython 3.11), and Queue's lock stays
        # locked if a signal's exception comes while this thread puts something in.
        self._large: _Waiting = collections.deque()
        self._small: _Waiting = collections.deque()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._threads = [self._start(self._ship_large, f"ship {n}") for n in range(jobs)]
        self._threads.append(self._start(self._ship_small, "pack"))

    def __enter__(self) -> ArchiveUploader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._uploader.cancel.set()
        for thread in self._threads:
            thread.join()

    def dispatch(self) -> None:
        """Look at the spool and hand out what can be read."""
        for member in self._spool.look():
            if self._is_large(member):
                self._hand_out(member, self._large)
            elif member.is_closed and member.name not in _LAST:
                self._hand_out(member, self._small)

    def finish(self, wait: Callable[[], object]) -> None:
        """Ship what is left, after pg_dump has exited with success.

        :param wait: called again and again meanwhile, on this thread; may raise.
        :raises PgS3Error: the first failure of any thread.
        """
        self._spool.all_closed()
        for _ in range(2):  # a member counts as closed from the second look on
            self.dispatch()
        # What a restore reads first travels alone in the last pack: a restore of one table need not fetch more of
        # the others for it.
        self._small.append(None)
        for member in self._spool.look():
            if member.name in _LAST:
                self._hand_out(member, self._small)
        self._small.append(None)
        for _ in self._threads[:-1]:
            self._large.append(None)
        while any(thread.is_alive() for thread in self._threads) or self._uploader.is_busy:
            self.raise_if_failed()
            wait()
        self.raise_if_failed()
        self._spool.check_complete()

    def raise_if_failed(self) -> None:
        """Raise what stopped a thread, if one has failed."""
        if self._failure is not None:
            raise self._failure
        self._uploader.raise_if_failed()

    def _is_large(self, member: SpooledMember) -> bool:
        # pg_restore reads toc.dat and the lists of large objects only uncompressed: packs become plain files.
        return member.size > SMALL_BYTES and not member.name.endswith(".toc") and member.name not in _LAST

    def _hand_out(self, member: SpooledMember, target: _Waiting) -> None:
        member.assigned = True
        target.append(member)

    def _start(self, work: Callable[[], None], name: str) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                with self._lock:
                    # What follows from a failure is not the failure.
                    if self._failure is None and not (isinstance(error, Cancelled) and self._cancelled()):
                        self._failure = error
                self._uploader.cancel.set()

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _cancelled(self) -> bool:
        return self._uploader.cancel.is_set()

    def _next(self, source: _Waiting) -> SpooledMember | None:
        while True:
            try:
                return source.popleft()
            except IndexError:
                if self._uploader.cancel.wait(_POLL_SECONDS):
                    raise Cancelled("stopped while waiting for pg_dump") from None

    def _ship_large(self) -> None:
        writer = RunWriter(self._store)
        while (member := self._next(self._large)) is not None:
            digest = MemberHasher(hashes=False)
            chunks = Chunks()
            for raw in cut(self._read(member, digest), self._average_bytes):
                chunks.append(writer.write(raw))
            self._record([UploadedMember(name=member.name, content=digest.finish(), chunks=chunks)])
        writer.end_run()

    def _read(self, member: SpooledMember, digest: MemberHasher) -> Iterator[bytes]:
        for chunk in self._spool.read(member):
            digest.update(chunk)
            yield chunk

    def _ship_small(self) -> None:
        for _ in range(2):  # the archive's small members; then toc.dat
            member = self._next(self._small)
            while member is not None:
                member = self._ship_pack(member)

    def _ship_pack(self, first: SpooledMember) -> SpooledMember | None:
        """Ship one pack that begins with `first`; return the member that begins the next one."""
        self._packs += 1
        key = self._folder + pack_name(self._packs) + self._encoder.suffix
        stored = bytearray()
        contents: list[tuple[str, MemberDigest]] = []
        following: list[SpooledMember | None] = []

        def pieces() -> Iterator[bytes]:
            member: SpooledMember | None = first
            packed_bytes = 0
            while member is not None and packed_bytes < PACK_BYTES and len(stored) < RUN_BYTES:
                digest = MemberHasher()
                yield tar_header(member.name, member.size)
                yield from self._read(member, digest)
                yield tar_padding(member.size)
                if digest.raw_bytes != member.size:
                    raise PgS3Error(f"{member.name} has changed from {member.size} to {digest.raw_bytes} bytes")
                contents.append((member.name, digest.finish()))
                packed_bytes += member.size
                member = self._next(self._small)
            following.append(member)
            yield TAR_END

        self._encoder.encode(pieces(), stored.extend)
        pack = StoredObject(key=key, stored_bytes=len(stored))
        self._uploader.store(key, stored)
        self._record([UploadedMember(name=name, content=content, pack=pack) for name, content in contents])
        return following[0]

    def _record(self, members: list[UploadedMember]) -> None:
        with self._lock:
            self.shipped += members
