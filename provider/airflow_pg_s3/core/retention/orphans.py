"""What lies under a database's prefix and belongs to no complete backup."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.repository.listing import EVIDENCE_SUFFIX
from airflow_pg_s3.core.repository.removal import PRUNED, Protected, Remover
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.retention.inventory import Inventory
from airflow_pg_s3.core.s3.object_lock import ObjectLocks
from airflow_pg_s3.core.s3.parallel import in_parallel
from airflow_pg_s3.core.s3.requests import Folder, Upload, last_part_of, list_backup_objects


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """What is stored for an id without being a backup.

    :param outcome: ``young`` may be a backup in progress, and is left alone, as is what is ``protected``.
    :param reason: what was found.
    :param stored_bytes: of its objects.
    """

    backup_id: str
    outcome: Literal["deleted", "young", "protected"]
    reason: str
    stored_bytes: int = 0


class OrphanSweep:
    """Finds the orphans of one database, and removes those that nothing was written to for long.

    :param found: what there is.
    :param age: how long ago the last thing must have been written.
    :param remover: None to remove nothing.
    """

    def __init__(
        self,
        repository: Repository,
        found: Inventory,
        *,
        database: str,
        age: timedelta,
        locks: ObjectLocks,
        remover: Remover | None,
        cancel: threading.Event,
    ) -> None:
        self._repository = repository
        self._found = found
        self._database = database
        self._base = repository.base(database)
        self._until = found.now - age
        self._locks = locks
        self._remover = remover
        self._cancel = cancel

    def sweep(self) -> Iterator[Orphan]:
        """Yield each orphan once it is dealt with, oldest first.

        :raises StorageError: S3 failed.
        """
        complete = set(self._found.complete)
        suspects = self._found.folders | set(self._found.uploads) | set(self._found.evidence)
        orphans = in_parallel(self._sweep, sorted(suspects - complete), cancel=self._cancel)
        yield from (orphan for orphan in orphans if orphan is not None)
        committed = sorted(complete & set(self._found.uploads))
        yield from (o for o in in_parallel(self._sweep_uploads, committed, cancel=self._cancel) if o is not None)

    def _sweep(self, backup_id: str) -> Orphan | None:
        """Deal with what has no manifest; None if it has one by now, or is gone."""
        prefix = f"{self._base}{backup_id}/"
        folder = list_backup_objects(self._repository.client, self._repository.bucket, prefix)
        evidence = [f"{self._base}{backup_id}{EVIDENCE_SUFFIX}"] if backup_id in self._found.evidence else []
        keys = [stored.key for stored in folder.objects]
        if not (keys or folder.uploads or evidence):
            return None
        stored_bytes = sum(stored.stored_bytes for stored in folder.objects)
        what = f"no manifest; {len(keys)} objects, {len(folder.uploads)} uploads, {len(evidence)} evidence"
        is_marked = prefix + PRUNED in keys
        if is_marked:
            reason = f"{what}, left by a prune that was interrupted"
        else:
            last = self._last_written(backup_id, folder)
            reason = f"{what}, last written {last.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
            if last > self._until:
                return Orphan(backup_id=backup_id, outcome="young", reason=reason, stored_bytes=stored_bytes)
        # Asked after the listing of what would be deleted, and right before: it may have been committed just now.
        if self._repository.is_committed(self._database, backup_id):
            return None
        protection = self._locks.protection(keys + evidence)
        if protection is None and self._remover is not None:
            try:
                self._remover.remove_data(folder, evidence)
            except Protected as refusal:
                protection = str(refusal)
            if keys and not is_marked:
                self._take_back(backup_id)
        if protection is not None:
            return Orphan(backup_id=backup_id, outcome="protected", reason=protection, stored_bytes=stored_bytes)
        return Orphan(backup_id=backup_id, outcome="deleted", reason=reason, stored_bytes=stored_bytes)

    def _sweep_uploads(self, backup_id: str) -> Orphan | None:
        """Abort what a complete backup has left of its uploads: none of it can become part of the backup."""
        stale = [upload for upload in self._found.uploads[backup_id] if self._is_stale(upload)]
        if not stale:
            return None
        if self._remover is not None:
            self._remover.abort(stale)
        return Orphan(
            backup_id=backup_id, outcome="deleted", reason=f"{len(stale)} uploads beside a complete backup"
        )

    def _last_written(self, backup_id: str, folder: Folder) -> datetime:
        times = [stored.modified for stored in folder.objects]
        times += [upload.initiated for upload in folder.uploads]
        if backup_id in self._found.evidence:
            times.append(self._found.evidence[backup_id])
        if max(times) <= self._until:
            # An upload that was begun long ago may still get parts.
            times += [self._last_part_of(upload) for upload in folder.uploads]
        return max(times)

    def _is_stale(self, upload: Upload) -> bool:
        return upload.initiated <= self._until and self._last_part_of(upload) <= self._until

    def _last_part_of(self, upload: Upload) -> datetime:
        return last_part_of(self._repository.client, self._repository.bucket, upload)

    def _take_back(self, backup_id: str) -> None:
        """Make sure that no manifest came to be while the data went: it would claim what is not there any more.

        A backup that wrote nothing for all of the age, and committed within these milliseconds.
        """
        if self._remover is not None and self._repository.is_committed(self._database, backup_id):
            key = self._repository.manifest_key(self._database, backup_id)
            self._remover.delete([key])
            raise StorageError(
                f"the backup {self._repository.uri(key)} was committed just when its data was removed, as it had "
                "written nothing for longer than orphan_age; it is deleted: back up again, with more orphan_age"
            )
