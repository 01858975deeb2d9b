"""An archive on S3 as pg_restore and the loading sessions see it: plain files, taken from packs, and streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import IO

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.archive.toc import TOC, Toc, check_files, read_toc
from airflow_pg_s3.core.repository.chunk_reader import read_chunks
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.member_verifier import MemberVerifier, described
from airflow_pg_s3.core.repository.members import Chunks, Member, packs_of, parse_members
from airflow_pg_s3.core.repository.pack import PackReader
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.requests import StoredObject
from airflow_pg_s3.core.workspace.resources import require_free_space
from airflow_pg_s3.core.workspace.workspace import Workspace

_READ_BYTES = 1 << 20


class ArchiveFolder:
    """The archive of one backup, in a workspace.

    :param base: key prefix that the manifest's objects are relative to.
    :raises IntegrityError: its list of members is not what was stored.
    :raises StorageError: S3 failed.
    """

    def __init__(
        self, manifest: Manifest, base: str, downloader: Downloader, decoder: Decoder, workspace: Workspace
    ) -> None:
        self.manifest = manifest
        self.workspace = workspace
        self.folder = workspace.make_folder("archive")
        self._base = base
        self._downloader = downloader
        size = manifest.members.stored_bytes
        members = downloader.read(StoredObject(key=base + manifest.members_key, stored_bytes=size))
        self.members = {member.name: member for member in parse_members(manifest, members)}
        self._packs = packs_of(self.members.values())
        self._pack_bytes = {record.key: record.stored_bytes for record in manifest.packs}
        self._decoder = decoder
        self._fetching = threading.Lock()
        self._files: set[str] = set()  # members that are whole in the folder
        self._counting = threading.Lock()
        self.read_bytes = 0
        self._toc: Toc | None = None

    @property
    def toc(self) -> Toc:
        """The table of contents, fetched when it is first asked for.

        :raises IntegrityError: it is not what was backed up, or names files that are none of an archive.
        :raises InputError: it is of a version that is not known here.
        """
        if self._toc is None:
            self.fetch([TOC])
            toc = read_toc(self.folder / TOC)
            check_files(toc)
            self._toc = toc
        return self._toc

    def fetch(self, names: Collection[str]) -> None:
        """Make plain files of members that are in packs, and of the others in the same packs.

        :raises IntegrityError: a pack or member is not what was backed up.
        :raises InputError: the spool's disk has no room for them.
        """
        if self._files.issuperset(names):
            return
        with self._fetching:
            for pack, members in self._packs.items():
                missing = [m for m in members if m.name in names and m.name not in self._files]
                if missing:
                    self._make_room(members)
                    self._files |= self._fetch_pack(pack, {member.name: member for member in members})
                    for member in missing:
                        if member.name not in self._files:
                            raise IntegrityError(f"{pack} does not hold {described(member)}")

    def save(self, members: Collection[Member]) -> None:
        """Make plain files of members, whether they are in packs or not.

        :raises IntegrityError: as `fetch` and `read`.
        :raises InputError: the spool's disk has no room for them.
        """
        self.fetch({member.name for member in members if member.packed})
        for member in members:
            if member.name not in self._files:
                self._make_room([member])
                with (self.folder / member.name).open("wb") as file:
                    self.read(member, file.write)
                self._files.add(member.name)

    def read(self, member: Member, write: Callable[[bytes], object]) -> None:
        """Read one member, from S3 if it is in no pack, on the caller's thread; several may do so at once.

        :param write: takes its bytes. They are known to be right; that none is missing, when this returns.
        :raises IntegrityError: it is not what was backed up.
        """
        try:
            for piece in self._pieces(member):
                write(piece)
                with self._counting:
                    self.read_bytes += len(piece)
        except IntegrityError as error:
            raise IntegrityError(f"{described(member)} {error}") from error

    def read_piece(self, member: Member, number: int) -> bytes:
        """Read one chunk of a member; all of one that is in a pack.

        :param number: of the chunk, from 0; there is nothing in one behind the last.
        :raises IntegrityError: as `read`.
        """
        if member.packed:
            pieces: list[bytes] = []
            self.read(member, pieces.append)
            return b"".join(pieces)
        chunk = Chunks()
        for one in islice(member.chunks, number, number + 1):
            chunk.append(one)
        return b"".join(read_chunks(chunk, self._base, self._downloader, self._decoder))

    def _pieces(self, member: Member) -> Iterator[bytes]:
        if not member.packed:
            yield from read_chunks(member.chunks, self._base, self._downloader, self._decoder)
            return
        self.fetch([member.name])
        verifier = MemberVerifier(member)
        with (self.folder / member.name).open("rb") as file:
            while piece := file.read(_READ_BYTES):
                verifier.update(piece)
                yield piece
        verifier.finish()

    def _make_room(self, members: Iterable[Member]) -> None:
        size = sum(member.raw_bytes for member in members)
        require_free_space(self.folder, size, what="what pg_restore reads of the backup as files")

    def _fetch_pack(self, pack: str, members: Mapping[str, Member]) -> set[str]:
        """Make files of all members in a pack, and return their names."""
        names: set[str] = set()
        with ExitStack() as stack:

            def open_member(name: str, size: int) -> _MemberFile:
                # The name becomes a file's: only the manifest's own names, which were checked, are taken.
                if name not in members:
                    raise IntegrityError(f"holds {name!r}, which the manifest does not name")
                names.add(name)
                return _MemberFile(members[name], stack.enter_context(open(f"{self.folder}/{name}", "wb")))

            reader = PackReader(open_member)
            stored = StoredObject(key=self._base + pack, stored_bytes=self._pack_bytes[pack])
            try:
                self._decoder.decode(self._downloader.stream([stored]), reader.write)
                reader.finish()
            except IntegrityError as error:
                raise IntegrityError(f"the pack {pack} {error}") from error
        return names


class _MemberFile:
    """A member that becomes a file."""

    def __init__(self, member: Member, file: IO[bytes]) -> None:
        self.file = file
        self._verifier = MemberVerifier(member)

    def write(self, chunk: bytes) -> None:
        self._verifier.update(chunk)
        self.file.write(chunk)

    def close(self) -> None:
        self.file.close()
        self._verifier.finish()
