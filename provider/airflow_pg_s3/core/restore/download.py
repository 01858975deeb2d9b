"""The download: a backup as the folder that ``pg_dump --format=directory`` would have written."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_pg_s3.core.errors import Cancelled, InputError
from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.reporting import Log, byte_progress, end_stage, human
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.repository.thaw import refuse_archived
from airflow_pg_s3.core.restore.backup_source import open_backup
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LOOK_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class DownloadRequest:
    """What to download, and where to.

    :param backup: URI of the manifest.
    :param folder: must not exist; its parent must.
    :param jobs: members that are read at the same time.
    :param identities: age identities that may open an encrypted backup.
    """

    backup: str
    folder: Path
    jobs: int = 2
    identities: tuple[str, ...] = ()


@translate_errors
def download(request: DownloadRequest, client: S3Client, *, cancel: threading.Event, log: Log) -> Manifest:
    """Write the archive of a backup, every byte of it checked. The folder is complete, or not there.

    :param cancel: set from anywhere to stop.
    :raises InputError: the request cannot work; nothing was written.
    :raises IntegrityError: what S3 holds is not what was backed up.
    :raises StorageError: S3 failed.
    :raises Cancelled: told to stop.
    """
    if request.jobs < 1:
        raise InputError(f"jobs must be at least 1, not {request.jobs}")
    folder = request.folder.absolute()
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists already: name a folder that does not")
    if not os.access(folder.parent, os.W_OK | os.X_OK):
        raise InputError(f"nothing can be written into {folder.parent}: make it, or name another folder")
    stored = read_manifest(client, request.backup)
    _refuse_little_room(folder.parent, stored.manifest)
    refuse_archived(client, request.backup, cancel=cancel)
    stop = threading.Event()
    # Beside its place, on the same filesystem, so that it can be moved there at once.
    with (
        Workspace(str(folder.parent)) as workspace,
        open_backup(
            stored,
            client,
            request.backup,
            workspace,
            identities=request.identities,
            jobs=request.jobs,
            stop=stop,
        ) as archive,
    ):
        try:
            _save(archive, request.jobs, cancel, log)
        except BaseException:
            stop.set()
            raise
        os.rename(archive.folder, folder)
    end_stage(log)
    log.info(
        "%s: %d files, %s, for pg_restore %s or newer",
        folder,
        len(archive.members),
        human(stored.manifest.raw_bytes),
        stored.manifest.dump.pg_dump_version.partition(".")[0],
    )
    return stored.manifest


def _save(archive: ArchiveFolder, jobs: int, cancel: threading.Event, log: Log) -> None:
    members = archive.members.values()
    progress = byte_progress(
        log, "read", lambda: archive.downloaded_bytes, _bytes_to_read(archive.manifest, members)
    )
    # The largest first, so that none is begun last; those in packs are many, and one piece of work.
    alone = sorted((one for one in members if not one.packed), key=lambda one: one.raw_bytes, reverse=True)
    work = [[one for one in members if one.packed], *([one] for one in alone)]
    with ThreadPoolExecutor(jobs, thread_name_prefix="download") as pool:
        pending = {pool.submit(archive.save, some) for some in work}
        try:
            while pending:
                done, pending = wait(pending, _LOOK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    future.result()
                if cancel.is_set():
                    raise Cancelled("the download was stopped; nothing of it is kept")
                progress.tick()
            progress.end()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _bytes_to_read(manifest: Manifest, members: Iterable[Member]) -> int:
    """Stored bytes of all objects and chunks; a chunk that is there twice is read twice."""
    chunks = sum(extent.stored_bytes for member in members for extent in member.chunks.extents())
    return manifest.members.stored_bytes + sum(pack.stored_bytes for pack in manifest.packs) + chunks


def _refuse_little_room(parent: Path, manifest: Manifest) -> None:
    free = shutil.disk_usage(parent).free
    if manifest.raw_bytes > free:
        raise InputError(
            f"{parent} has {human(free)} free, but the archive takes {human(manifest.raw_bytes)}: make room, or "
            "name a folder on another disk"
        )
