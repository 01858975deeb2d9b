"""What S3 Object Lock protects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


# What stores call it that refuse every deletion of a protected object, such as ObjectLockedByBucketPolicy.
_LOCKED = re.compile(r"object ?lock|retention|legal ?hold|worm|immutab", re.IGNORECASE)


class ObjectLocks:
    """Asks whether objects of a bucket are protected.

    S3 never refuses to delete a protected object without naming a version: it hides it behind a delete marker. So
    whoever wants to respect a lock has to ask first.
    """

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self.may_be_on = self._look_at_bucket()
        """True if the bucket has Object Lock, or we may not know."""

    def protection(self, keys: Iterable[str]) -> str | None:
        """Say what protects any of these objects, and until when; None if nothing does.

        :raises AccessDenied: no right to see locks.
        :raises StorageError: S3 failed.
        """
        if not self.may_be_on:
            return None
        until = None
        for key in keys:
            retained = self._ask("get_object_retention", key).get("Retention", {}).get("RetainUntilDate")
            if retained is not None and retained > datetime.now(UTC):
                until = max(until or retained, retained)
            if self._ask("get_object_legal_hold", key).get("LegalHold", {}).get("Status") == "ON":
                return f"Object Lock: legal hold on {key}"
        return until and f"Object Lock until {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"

    def _look_at_bucket(self) -> bool:
        """True if it may have locks; who may not know must take it that it has."""
        if s3_requests.is_access_point(self._bucket):
            return True
        try:
            answer = self._client.get_object_lock_configuration(Bucket=self._bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchBucket":
                raise s3_errors.explain_refusal(error, self._bucket) from error
            status = s3_errors.status_of(error)
            if status == 403:
                return True
            if status in (400, 404, 405, 501):  # none, or a store that does not know of such a thing
                return False
            raise s3_errors.explain_refusal(error, self._bucket) from error
        except BotoCoreError as error:
            raise s3_errors.unreachable(error) from error
        return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    def _ask(self, operation: str, key: str) -> Mapping[str, Any]:
        """Ask for a lock of an object; empty if it has none, or is gone.

        HeadObject would tell of both at once. But it takes the right to read the data, and leaves out, without
        a word, what there is no right to see.
        """
        try:
            answer: Mapping[str, Any] = getattr(self._client, operation)(Bucket=self._bucket, Key=key)
        except ClientError as error:
            status = s3_errors.status_of(error)
            if s3_errors.is_about_rights(error):
                raise s3_errors.AccessDenied(
                    f"the bucket {self._bucket!r} may have Object Lock, and the AWS connection may not see which "
                    "objects it protects: grant s3:GetObjectRetention and s3:GetObjectLegalHold, and "
                    "s3:GetBucketObjectLockConfiguration"
                ) from error
            # 400 has other reasons as well, such as credentials that have expired.
            if status in (404, 405, 501) or error.response["Error"]["Code"] == "InvalidRequest":
                return {}
            raise StorageError(f"cannot tell whether s3://{self._bucket}/{key} is locked: {error}") from error
        except BotoCoreError as error:
            raise StorageError(f"cannot tell whether s3://{self._bucket}/{key} is locked: {error}") from error
        return answer


def says_locked(code: str, message: str) -> bool:
    """True if a refusal to delete means that the object is protected, rather than that a right is missing."""
    # The message of a missing right has names in it, and these may have any words in them.
    about = code if "not authorized" in message else f"{code} {message}"
    return _LOCKED.search(about) is not None
