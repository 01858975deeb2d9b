"""The mark that keeps backups and sweeps of one database apart. docs/format.md describes it for others.

A sweep deletes runs that no backup refers to, so no backup may be about to refer to them::

    a backup: stores `begun`, then looks for the mark, and waits for its end; then reads which runs there are
    a sweep:  stores the mark, then looks for `begun` of a backup without a manifest, and gives up if there is one;
              then reads which runs the backups refer to

Whichever of the two stores first, the other one sees it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import Cancelled, DataConflict, PgS3Error, StorageError
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


SWEEPING = "sweeping"
LIFE = timedelta(minutes=30)
"""How long the mark holds, by S3's clock, if whoever has stored it dies.

A sweep ends at half of it. As S3 executes no request that was signed more than 15 minutes ago, its last one is
done before the mark's life is over.
"""

_POLL_SECONDS = 5.0


class Postponed(PgS3Error):
    """Nothing can be deleted safely at this time; a later sweep will."""


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """A mark as S3 has it.

    :param age: by S3's clock.
    """

    owner: str | None
    age: timedelta


class SweepMark:
    """The mark of one sweep, for the time of a `with` block.

    :param base: key prefix of the database's backups.
    :raises Postponed: another sweep has its mark there.
    :raises StorageError: the mark cannot be stored.
    """

    def __init__(
        self, client: S3Client, bucket: str, base: str, *, extra_args: Mapping[str, Any], log: Log
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._base = base
        self._extra_args = extra_args
        self._log = log
        self._owner = secrets.token_hex(8)
        self._uri = f"s3://{bucket}/{base}{SWEEPING}"

    def __enter__(self) -> SweepMark:
        try:
            self._store()
        except StorageError:
            self._remove()  # as it may have been stored nevertheless
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def confirm(self) -> None:
        """Make sure that backups still see this sweep.

        :raises Postponed: its mark is gone, or too old.
        """
        mark = _read(self._client, self._bucket, self._base)
        if mark is None or mark.owner != self._owner:
            raise Postponed(f"the mark {self._uri} is gone, or another prune's")
        if mark.age > LIFE / 2:
            raise Postponed(f"it has taken longer than {LIFE / 2}, half of the life of its mark {self._uri}")

    def _store(self) -> None:
        body = json.dumps({"owner": self._owner}).encode()
        arguments = (self._client, self._bucket, self._base + SWEEPING, body, self._extra_args)
        try:
            s3_requests.put_if_absent(*arguments)
        except DataConflict:
            mark = _read(self._client, self._bucket, self._base)
            if mark is None or mark.age <= LIFE:
                raise Postponed(f"another prune is at work, by its mark {self._uri}") from None
            # Replaced, not deleted first: two that do so at once leave one mark, and one of them finds it lost.
            s3_requests.put_record(*arguments)

    def _remove(self) -> None:
        """Remove the mark if it is this sweep's; nobody else does."""
        try:
            mark = _read(self._client, self._bucket, self._base)
            if mark is not None and mark.owner == self._owner:
                self._client.delete_object(Bucket=self._bucket, Key=self._base + SWEEPING)
        except (PgS3Error, ClientError, BotoCoreError) as error:
            self._log.warning(
                "cannot delete %s, for which backups wait %d minutes at most: %s",
                self._uri,
                LIFE // timedelta(minutes=1),
                error,
            )


def wait_for_sweep(client: S3Client, bucket: str, base: str, *, cancel: threading.Event, log: Log) -> None:
    """Wait until no sweep is at work; to be called when `begun` is stored, so that the next one sees that.

    :param base: key prefix of the database's backups.
    :raises Cancelled: told to stop.
    :raises StorageError: S3 failed.
    """
    is_said = False
    while (mark := _read(client, bucket, base)) is not None and mark.age <= LIFE:
        if not is_said:
            log.info(
                "waiting for a prune that deletes what no backup refers to, until s3://%s/%s%s is gone, or %d "
                "minutes old",
                bucket,
                base,
                SWEEPING,
                LIFE // timedelta(minutes=1),
            )
            is_said = True
        if cancel.wait(_POLL_SECONDS):
            raise Cancelled("the task was told to stop while it waited for a prune")


def _read(client: S3Client, bucket: str, base: str) -> _Mark | None:
    key = base + SWEEPING
    try:
        answer = s3_requests.get_object(client, Bucket=bucket, Key=key)
        body = answer["Body"].read(4096)
    except ClientError as error:
        if s3_errors.status_of(error) == 404:
            return None
        raise s3_errors.explain_unreadable(error, bucket, key) from error
    except BotoCoreError as error:
        raise StorageError(f"s3://{bucket}/{key} cannot be read: {error}") from error
    owner = None
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        owner = str(json.loads(body)["owner"])
    return _Mark(owner=owner, age=s3_requests.answered_at(answer) - answer["LastModified"])
