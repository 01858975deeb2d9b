"""A backup being made, and the line that makes it exist: `StagedBackup.commit`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_pg_s3.core.errors import DataConflict, PgS3Error
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.manifest import Manifest, MembersFile, members_key
from airflow_pg_s3.core.repository.members import Member, write_members
from airflow_pg_s3.core.repository.presence import Presence
from airflow_pg_s3.core.repository.repository import Begun, Repository
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests


class StagedBackup:
    """A backup being made. Leaving the context without `commit` removes all that was stored for it.

    :param cancel: set from anywhere to stop waiting for a prune.
    """

    def __init__(
        self,
        repository: Repository,
        begun: Begun,
        extra_args: Mapping[str, Any],
        *,
        cancel: threading.Event,
        log: Log,
    ) -> None:
        self._repository = repository
        self._begun = begun
        self._extra_args = extra_args
        self._remove_on_exit = True
        self._committed = False
        self._presence = Presence(repository, begun, extra_args, cancel=cancel, log=log)
        self._run_bytes: dict[str, int] = {}
        self.base = repository.base(begun.database)
        self.folder = f"{self.base}{begun.backup_id}/"
        self.manifest_key = repository.manifest_key(begun.database, begun.backup_id)

    def __enter__(self) -> StagedBackup:
        if self._repository.is_committed(self._begun.database, self._begun.backup_id):
            raise DataConflict(f"{self._repository.uri(self.manifest_key)} exists already, and is not ours")
        # Must not exist: from here on, all that is in the folder is ours.
        self._presence.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._presence.end()
        if self._committed and error is None:
            self._presence.settle()
        if not self._remove_on_exit:
            return
        try:
            self._repository.remove_data(self._begun.database, self._begun.backup_id)
        except PgS3Error as trouble:
            if error is None:
                raise
            error.add_note(f"{trouble}; the next backup of this database will try again")

    def wait_for_sweep(self) -> None:
        """Wait until no prune is deleting runs: those that a backup refers to from here on stay.

        :raises Cancelled: told to stop.
        :raises StorageError: S3 failed.
        """
        self._presence.wait_for_sweep()

    def retract(self) -> None:
        """Make a backup that was committed not exist; what was stored for it is removed on exit.

        :raises StorageError: the manifest cannot be deleted.
        """
        self._repository.retract(self._begun.database, self._begun.backup_id)
        # No other backup refers to one that is not settled.
        self._remove_on_exit = True

    def store_members(self, members: Iterable[Member], runs: Mapping[str, int]) -> MembersFile:
        """Store the list of the members, and take note of what they need.

        :param runs: how many bytes each must have at least, by keys relative to the manifest's folder.
        :raises StorageError: S3 failed.
        """
        data, record = write_members(members)
        key = self.base + members_key(self._begun.backup_id)
        client, bucket = self._repository.client, self._repository.bucket
        arguments = s3_requests.of_records(client, self._extra_args) | s3_requests.content_md5(client, data)
        with s3_errors.translate_errors(bucket):
            client.put_object(Bucket=bucket, Key=key, Body=data, **arguments)
        self._run_bytes = dict(runs)
        return record

    def commit(self, manifest: Manifest) -> None:
        """Make the backup exist: its manifest is stored, and only if there is none under its key.

        :raises StorageError: an object of it is not there, or the manifest cannot be written.
        :raises DataConflict: a manifest of somebody else has its key.
        """
        self._make_sure_that_all_is_there(manifest)
        # From here on the manifest may come to exist at any moment, even after an error, and then its objects
        # must as well. Only a definite refusal by S3 allows us to remove them.
        self._remove_on_exit = False
        try:
            s3_requests.put_if_absent(
                self._repository.client,
                self._repository.bucket,
                self.manifest_key,
                manifest.to_json(),
                self._extra_args,
            )
        except s3_errors.OutcomeUnknown:
            raise
        except PgS3Error:
            self._remove_on_exit = True
            raise
        self._committed = True

    def _make_sure_that_all_is_there(self, manifest: Manifest) -> None:
        required = {key: self._run_bytes.get(key, 1) for key in manifest.object_keys()}
        required |= {record.key: record.stored_bytes for record in manifest.packs}
        required[manifest.members_key] = manifest.members.stored_bytes
        self._presence.confirm({self.base + key: size for key, size in required.items()})
