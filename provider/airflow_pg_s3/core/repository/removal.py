"""Deletes objects of backups, so that it may be interrupted anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import Cancelled, DataConflict, PgS3Error, StorageError
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.listing import EVIDENCE_SUFFIX, MANIFEST_SUFFIX
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests
from airflow_pg_s3.core.s3.deletion import Deleter
from airflow_pg_s3.core.s3.object_lock import says_locked

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


PRUNED = "pruned"
"""Name of the object that says that a backup's manifest was deleted on purpose, and the rest is to follow."""

_MARK = b'{"pruned": true}'


class Protected(PgS3Error):
    """S3 refuses to delete an object because a lock protects it."""


class Remover:
    """Deletes what belongs to single backups.

    :param extra_args: arguments for the S3 requests that accept them.
    :param cancel: set from anywhere to stop between two requests.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        extra_args: Mapping[str, Any],
        cancel: threading.Event,
        log: Log,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._extra_args = extra_args
        self._cancel = cancel
        self._log = log
        self._may_mark = True
        self._deleter = Deleter(client, bucket)

    @property
    def leaves_versions(self) -> bool:
        """True if the bucket has kept what was deleted, as a noncurrent version."""
        return self._deleter.leaves_versions

    def remove_manifest(self, base: str, backup_id: str, *, has_evidence: bool) -> None:
        """Make a complete backup none any more: its manifest goes, and then its evidence.

        Before that its folder gets a mark, so that the next run knows without waiting that what is left is not a
        backup in progress.

        :param base: key prefix of the database's backups.
        :raises Protected: S3 refuses, because of a lock.
        :raises StorageError: S3 failed.
        """
        self._mark(f"{base}{backup_id}/")
        self.delete([f"{base}{backup_id}{MANIFEST_SUFFIX}"])
        if has_evidence:
            self.delete([f"{base}{backup_id}{EVIDENCE_SUFFIX}"])

    def delete(self, keys: Sequence[str], confirm: Callable[[], None] = lambda: None) -> None:
        """Delete objects.

        :param confirm: called before each request; raises what is to keep it from being sent.
        :raises Protected: a lock is all that S3 gives as a reason for what it did not delete.
        :raises StorageError: it gives another.
        """

        def before_each() -> None:
            self._stop_if_told()
            confirm()

        try:
            for refused in self._deleter.delete(keys, before_each):
                refusals = [self._refusal(one["Key"], one) for one in refused]
                for refusal in sorted(refusals, key=lambda refusal: isinstance(refusal, Protected)):
                    raise refusal
        except ClientError as error:
            raise self._refusal(keys[0], error.response["Error"], error) from error
        except BotoCoreError as error:
            raise StorageError(f"cannot delete {self._uri(keys[0])}: {error}") from error

    def _mark(self, folder: str) -> None:
        """Say that what is in the folder is to be deleted, if its manifest is gone."""
        if not self._may_mark:
            return
        try:
            s3_requests.put_if_absent(self._client, self._bucket, folder + PRUNED, _MARK, self._extra_args)
        except DataConflict:
            pass  # a run that was interrupted has left it, and we may not read it
        except PgS3Error as error:
            if not (isinstance(error.__cause__, ClientError) and s3_errors.is_about_rights(error.__cause__)):
                raise
            self._may_mark = False
            self._log.warning(
                "no right to write %s: if this run is interrupted, what it leaves is removed once it is older "
                "than orphan_age",
                self._uri(folder + PRUNED),
            )

    def _refusal(self, key: str, refused: Any, error: ClientError | None = None) -> Protected | StorageError:
        code, message = str(refused.get("Code")), str(refused.get("Message"))
        if (error is None or s3_errors.status_of(error) < 500) and says_locked(code, message):
            return Protected(f"S3 refuses to delete {self._uri(key)}: {code}: {message}")
        return StorageError(f"cannot delete {self._uri(key)}: {code}: {message}")

    def _stop_if_told(self) -> None:
        if self._cancel.is_set():
            raise Cancelled("stopped while backups were deleted; the next run goes on")

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"
