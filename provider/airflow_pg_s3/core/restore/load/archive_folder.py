"""An archive on S3, as files for pg_restore (unpacked from packs) and as streams for the loading sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import IO

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.archive.toc import TOC, Toc, check_files, read_toc
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.manifest import Manifest, Member
from airflow_pg_s3.core.repository.member_verifier import MemberVerifier, described
from airflow_pg_s3.core.repository.pack import PackReader
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.requests import StoredObject
from airflow_pg_s3.core.workspace.resources import require_free_space
from airflow_pg_s3.core.workspace.workspace import Workspace

_READ_BYTES = 1 << 20


class ArchiveFolder:
    """The archive of one backup, with a folder in a workspace for its files.

    :param base: prefix of the objects' keys, which the manifest gives relative to it.
    """

    def __init__(
        self, manifest: Manifest, base: str, downloader: Downloader, decoder: Decoder, workspace: Workspace
    ) -> None:
        self.manifest = manifest
        self.members = {member.name: member for member in manifest.members}
        self.workspace = workspace
        self.folder = workspace.make_folder("archive")
        self._objects = {
            record.key: StoredObject(key=base + record.key, stored_bytes=record.stored_bytes)
            for record in manifest.objects
        }
        self._downloader = downloader
        self._decoder = decoder
        self._fetching = threading.Lock()
        self._files: set[str] = set()  # names of the members that are complete files in the folder
        self._counting = threading.Lock()
        self.read_bytes = 0
        self._toc: Toc | None = None

    @property
    def downloaded_bytes(self) -> int:
        """Bytes read from S3."""
        return self._downloader.read_bytes

    @property
    def toc(self) -> Toc:
        """The table of contents, fetched on first use.

        :raises IntegrityError: it is not what was backed up, or names files that cannot be in an archive.
        :raises InputError: its format version is unknown.
        """
        if self._toc is None:
            self.fetch([TOC])
            toc = read_toc(self.folder / TOC)
            check_files(toc)
            self._toc = toc
        return self._toc

    def fetch(self, names: Collection[str]) -> None:
        """Write packed members as files, and with them the other members of their packs.

        :raises IntegrityError: a pack or member is not what was backed up.
        :raises InputError: the spool's disk has no room for them.
        """
        if self._files.issuperset(names):
            return
        with self._fetching:
            for objects, members in self.manifest.packs():
                missing = [m for m in members if m.name in names and m.name not in self._files]
                if missing:
                    self._make_room(members)
                    self._files |= self._fetch_pack(objects, {member.name: member for member in members})
                    for member in missing:
                        if member.name not in self._files:
                            raise IntegrityError(f"{objects[0]} does not hold {described(member)}")

    def save(self, members: Collection[Member]) -> None:
        """Write members as files, whether they are in packs or not.

        :raises IntegrityError: as in `fetch` and `read`.
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
        """Read one member on the caller's thread, from S3 unless it is packed; threads may do so at the same time.

        :param write: called with the member's bytes. They have proved right only when `read` returns.
        :raises IntegrityError: the member is not what was backed up.
        """
        verifier = MemberVerifier(member)

        def take(chunk: bytes) -> None:
            verifier.update(chunk)
            write(chunk)
            with self._counting:
                self.read_bytes += len(chunk)

        try:
            if member.packed:
                self.fetch([member.name])
                with (self.folder / member.name).open("rb") as file:
                    while chunk := file.read(_READ_BYTES):
                        take(chunk)
            else:
                self._decoder.decode(self._downloader.stream([self._objects[key] for key in member.objects]), take)
            verifier.finish()
        except IntegrityError as error:
            raise IntegrityError(f"{described(member)} {error}") from error

    def _make_room(self, members: Iterable[Member]) -> None:
        size = sum(member.raw_bytes for member in members)
        require_free_space(self.folder, size, what="what pg_restore reads of the backup as files")

    def _fetch_pack(self, objects: Sequence[str], members: Mapping[str, Member]) -> set[str]:
        """Write all members of a pack as files; return their names."""
        names: set[str] = set()
        with ExitStack() as stack:

            def open_member(name: str, size: int) -> _MemberFile:
                # The name becomes a file name, so only names from the manifest are accepted: these were checked.
                if name not in members:
                    raise IntegrityError(f"holds {name!r}, which the manifest does not name")
                names.add(name)
                return _MemberFile(members[name], stack.enter_context(open(f"{self.folder}/{name}", "wb")))

            reader = PackReader(open_member)
            try:
                self._decoder.decode(
                    self._downloader.stream([self._objects[key] for key in objects]), reader.write
                )
                reader.finish()
            except IntegrityError as error:
                raise IntegrityError(f"the pack {objects[0]} {error}") from error
        return names


class _MemberFile:
    """A member that is written to a file."""

    def __init__(self, member: Member, file: IO[bytes]) -> None:
        self.file = file
        self._verifier = MemberVerifier(member)

    def write(self, chunk: bytes) -> None:
        self._verifier.update(chunk)
        self.file.write(chunk)

    def close(self) -> None:
        self.file.close()
        self._verifier.finish()
