"""An archive on S3 as pg_restore sees it: a folder of plain files, taken from packs, and of named pipes."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from airflow_pg_s3.core.codec import Decoder
from airflow_pg_s3.core.content import ContentDigest
from airflow_pg_s3.core.download import Downloader
from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.feeder import CheckedMember, Feeder, called
from airflow_pg_s3.core.manifest import Manifest, Member
from airflow_pg_s3.core.pack import PackReader
from airflow_pg_s3.core.progress import human
from airflow_pg_s3.core.spool import TOC
from airflow_pg_s3.core.toc import check_files, read_toc
from airflow_pg_s3.core.upload import StoredObject
from airflow_pg_s3.core.workspace import Workspace

_READ_BYTES = 1 << 20


class ServedArchive:
    """The archive of one backup, in a workspace.

    :param base: key prefix that the manifest's objects are relative to.
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

    def fetch(self, names: Collection[str]) -> None:
        """Make plain files of members that are in packs (and of the others in the same packs).

        :raises IntegrityError: a pack or member is not what was backed up.
        :raises InputError: the spool's disk has no room for them.
        """
        present = set(os.listdir(self.folder))
        for objects, members in self.manifest.packs():
            missing = [m for m in members if m.name in names and m.name not in present]
            if missing:
                self._make_room(sum(member.raw_bytes for member in members))
                self._fetch_pack(objects, {member.name: member for member in members})
                present = set(os.listdir(self.folder))
                for member in missing:
                    if member.name not in present:
                        raise IntegrityError(f"{objects[0]} does not hold {called(member)}")
                if TOC in {member.name for member in missing}:
                    check_files(read_toc(self.folder / TOC))

    def feeder(self, members: Sequence[Member], threads: int) -> Feeder:
        """Serve large members as named pipes."""
        return Feeder(
            self.folder,
            members,
            self._objects,
            downloader=self._downloader,
            decoder=self._decoder,
            threads=threads,
            hold=self.workspace.hold,
        )

    def read(self, member: Member, write: Callable[[bytes], object]) -> None:
        """Read one member from S3 again, on the caller's thread; several may do so at once.

        :param write: takes its bytes; what they are is only known to be right when this returns.
        :raises IntegrityError: it is not what was backed up.
        """
        digest = ContentDigest()

        def take(chunk: bytes) -> None:
            digest.update(chunk)
            write(chunk)

        if member.packed:
            path = self.folder / member.name
            with self._fetching:
                if not path.exists():
                    self.fetch([member.name])
            with path.open("rb") as file:
                while chunk := file.read(_READ_BYTES):
                    take(chunk)
        else:
            try:
                self._decoder.decode(self._downloader.stream([self._objects[key] for key in member.objects]), take)
            except IntegrityError as error:
                raise IntegrityError(f"{called(member)} {error}") from error
        content = digest.finish()
        if (content.raw_bytes, content.sha256) != (member.raw_bytes, member.sha256):
            raise IntegrityError(f"{called(member)} is not what was backed up")

    def _fetch_pack(self, objects: Sequence[str], members: Mapping[str, Member]) -> None:
        def open_member(name: str, size: int) -> CheckedMember:
            # The name becomes a file's: only the manifest's own names, which were checked, are taken.
            if name not in members:
                raise IntegrityError(f"holds {name!r}, which the manifest does not name")
            path = f"{self.folder}/{name}"
            return CheckedMember(members[name], os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))

        reader = PackReader(open_member)
        try:
            self._decoder.decode(self._downloader.stream([self._objects[key] for key in objects]), reader.write)
            reader.finish()
        except IntegrityError as error:
            raise IntegrityError(f"the pack {objects[0]} {error}") from error

    def _make_room(self, size: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise InputError(
                f"spool_dir has {human(free)} free, but the backup's small members take {human(size)} there: "
                "give a spool_dir with more room"
            )
