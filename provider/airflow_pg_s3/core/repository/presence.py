"""Says on S3 that a backup is being made, and goes on saying so, for prunes to see."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import PgS3Error, StorageError
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository import sweep_mark
from airflow_pg_s3.core.repository.repository import BEGUN, SETTLED, Begun, Repository
from airflow_pg_s3.core.s3 import requests as s3_requests
from airflow_pg_s3.core.s3.errors import OutcomeUnknown

_RENEW_SECONDS = 1800.0
_PATIENCE_SECONDS = 5.0
_ATTEMPTS = 3
_YOUNG = timedelta(hours=1)


class Presence:
    """The object `begun` of one backup, stored anew every half hour from `begin` to `end`.

    A backup may write nothing else for long: if nothing has changed, all that it reads is stored already.

    :param cancel: set from anywhere to stop waiting.
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
        self._base = repository.base(begun.database)
        self._folder = f"{self._base}{begun.backup_id}/"
        self._key = self._folder + BEGUN
        self._body = begun.to_json()
        self._extra_args = extra_args
        self._cancel = cancel
        self._log = log
        self._may_renew = True
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="begun", daemon=True)

    def begin(self) -> None:
        """Store `begun`, which must not exist.

        :raises DataConflict: it does.
        :raises StorageError: it cannot be stored.
        """
        s3_requests.put_if_absent(
            self._repository.client, self._repository.bucket, self._key, self._body, self._extra_args
        )
        self._thread.start()

    def resume(self) -> None:
        """Store `begun`, whether or not an earlier attempt has.

        :raises StorageError: it cannot be stored.
        """
        s3_requests.put_record(
            self._repository.client, self._repository.bucket, self._key, self._body, self._extra_args
        )
        self._thread.start()

    def end(self) -> None:
        """Store it no more; if S3 takes long over it just then, once more, which others find."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_SECONDS)

    def renew(self) -> None:
        """Store `begun` anew, so that no prune takes the backup for abandoned.

        :raises OutcomeUnknown: S3 failed.
        """
        try:
            s3_requests.put_record(
                self._repository.client, self._repository.bucket, self._key, self._body, self._extra_args
            )
            self._may_renew = True
        except OutcomeUnknown:
            raise
        except StorageError as error:
            # Such as a lock that keeps objects from being written over: what is there is as old as the backup.
            self._may_renew = False
            self._log.warning("%s; orphan_age of prunes must be longer than backups take", error)

    def is_young(self) -> bool:
        """True if S3 has got `begun` less than an hour ago, so that no prune takes the backup for abandoned.

        :raises StorageError: S3 does not say, or has it no more.
        """
        try:
            answer = self._repository.client.head_object(Bucket=self._repository.bucket, Key=self._key)
        except (ClientError, BotoCoreError) as error:
            uri = self._repository.uri(self._key)
            raise StorageError(
                f"cannot tell whether this backup is taken for abandoned, by {uri}: {error}"
            ) from error
        age = s3_requests.answered_at(answer) - answer["LastModified"]
        return age < _YOUNG or not self._may_renew

    def wait_for_sweep(self) -> None:
        """Wait until no prune is deleting runs: what `begun` was stored before, no later one deletes.

        :raises Cancelled: told to stop.
        :raises StorageError: S3 failed.
        """
        sweep_mark.wait_for_sweep(
            self._repository.client, self._repository.bucket, self._base, cancel=self._cancel, log=self._log
        )

    def confirm(self, required: Mapping[str, int]) -> None:
        """Make sure that objects are there, at a time from which on no prune deletes any.

        However long this backup was paused: a prune that took it for abandoned has deleted what is missing now,
        and one that begins after `wait_for_sweep` sees that it is being made, as `begun` is young at the commit.

        :param required: how many bytes each must have at least, by key.
        :raises StorageError: one is not there.
        :raises Cancelled: told to stop.
        """
        for _ in range(_ATTEMPTS):
            self.renew()
            self.wait_for_sweep()
            missing = self._repository.missing_objects(required)
            if missing:
                raise StorageError(f"{len(missing)} objects are not as they were stored, such as {missing[0]}")
            if self.is_young():
                return
        raise StorageError(
            f"it took too long to see that all objects of {self._repository.uri(self._folder)} are there"
        )

    def settle(self) -> None:
        """Say that the manifest stays: until then, no other backup refers to what this one has stored.

        If it cannot be said, the next backup stores anew what has changed since an older one.
        """
        client, bucket = self._repository.client, self._repository.bucket
        with contextlib.suppress(PgS3Error):
            s3_requests.put_record(client, bucket, self._folder + SETTLED, b"{}", self._extra_args)
        self.withdraw()

    def withdraw(self) -> None:
        """Take `begun` away, as nothing is being made any more; it is harmless if it stays."""
        with contextlib.suppress(ClientError, BotoCoreError):
            self._repository.client.delete_object(Bucket=self._repository.bucket, Key=self._key)

    def _keep_renewing(self) -> None:
        while not self._is_over.wait(_RENEW_SECONDS):
            try:
                self.renew()
            except StorageError as error:
                self._log.warning("%s; it is tried again in %d minutes", error, _RENEW_SECONDS // 60)
