"""Backups in an archive storage class: S3 gives their objects out hours after it was asked to (RestoreObject)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.listing import MANIFEST_SUFFIX
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests
from airflow_pg_s3.core.s3.parallel import in_parallel

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


TIERS = ("Expedited", "Standard", "Bulk")
# Where a list says so, HeadObject tells whether the object has been asked for.
_MAY_BE_ARCHIVED = ("GLACIER", "DEEP_ARCHIVE", "INTELLIGENT_TIERING")


@dataclass(frozen=True)
class _Archived:
    """An object that cannot be read yet.

    :param moves_back: it comes back for good (INTELLIGENT_TIERING), and not as a copy for some days.
    """

    key: str
    is_asked_for: bool = False
    moves_back: bool = False

    def request(self, tier: str, days: int) -> Any:
        return {"GlacierJobParameters": {"Tier": tier}, **({} if self.moves_back else {"Days": days})}


def refuse_archived(client: S3Client, uri: str, *, cancel: threading.Event) -> None:
    """Refuse a backup some of whose objects S3 does not give out yet.

    :param uri: of its manifest.
    :raises Unreadable: naming one of them.
    """
    bucket, key = s3_requests.parse_uri(uri, parameter="backup")
    try:
        archived = _archived(client, bucket, _parts_of(client, bucket, key), cancel)
    except s3_errors.AccessDenied:
        return  # A right to list may be missing; then the first of them that is read will tell.
    if archived:
        raise s3_errors.Unreadable(
            f"{len(archived)} objects of {uri} lie in an archive storage class, such as {archived[0].key}: "
            'restore with thaw="Standard", which asks S3 for them and waits, for hours'
        )


def ask_for(client: S3Client, uri: str, *, tier: str, days: int, cancel: threading.Event, log: Log) -> int:
    """Ask S3 for what of a backup, or of another tool's archive, lies in an archive storage class.

    To be called again, every some minutes, until it returns 0.

    :param tier: how fast S3 is to be: one of `TIERS`.
    :param days: how long S3 is to keep the copies that can be read.
    :returns: how many objects cannot be read yet.
    :raises InputError: tier or days make no sense, or there is no such backup.
    :raises StorageError: S3 failed.
    """
    if tier not in TIERS:
        raise InputError(f"thaw must be one of {', '.join(TIERS)}, not {tier!r}")
    if days < 1:
        raise InputError(f"thaw_days must be at least 1, not {days}")
    bucket, key = s3_requests.parse_uri(uri, parameter="backup")
    # What it refers to can be read out of the manifest, as soon as that can be read.
    archived = _archived(client, bucket, [key], cancel)
    archived = archived or _archived(client, bucket, _parts_of(client, bucket, key), cancel)

    def ask(one: _Archived) -> None:
        with s3_errors.translate_errors(bucket):
            try:
                client.restore_object(Bucket=bucket, Key=one.key, RestoreRequest=one.request(tier, days))
            except ClientError as error:
                # Somebody else has asked for it, or it can be read by now.
                if error.response["Error"]["Code"] not in ("RestoreAlreadyInProgress", "InvalidObjectState"):
                    raise

    new = [one for one in archived if not one.is_asked_for]
    for _ in in_parallel(ask, new, cancel=cancel):
        pass
    if archived:
        log.info(
            "%d objects of %s lie in an archive storage class, %d of them S3 was asked for just now (%s): waiting",
            len(archived), uri, len(new), tier,
        )  # fmt: skip
    return len(archived)


def _parts_of(client: S3Client, bucket: str, key: str) -> list[str]:
    """List what of a backup may be archived, by the key of its manifest; nothing for another tool's archive."""
    if not key.endswith(MANIFEST_SUFFIX):
        return []
    manifest, base, _ = read_manifest(client, f"s3://{bucket}/{key}")
    with s3_errors.translate_errors(bucket):
        return [
            entry["Key"]
            for backup_id in sorted({manifest.backup_id, *manifest.runs})
            for page in s3_requests.list_pages(client, Bucket=bucket, Prefix=f"{base}{backup_id}/")
            for entry in page.get("Contents", [])
            if entry.get("StorageClass") in _MAY_BE_ARCHIVED
            and manifest.refers_to(entry["Key"].removeprefix(base))
        ]


def _archived(client: S3Client, bucket: str, keys: list[str], cancel: threading.Event) -> list[_Archived]:
    found = in_parallel(lambda key: _look(client, bucket, key), keys, cancel=cancel)
    return [one for one in found if one is not None]


def _look(client: S3Client, bucket: str, key: str) -> _Archived | None:
    with s3_errors.translate_errors(bucket):
        try:
            head: Any = client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if s3_errors.status_of(error) == HTTPStatus.NOT_FOUND:
                raise InputError(
                    f"there is no object s3://{bucket}/{key}: list the backups to see which there are"
                ) from error
            raise
    restore = head.get("Restore", "")
    if 'ongoing-request="true"' in restore:
        return _Archived(key, is_asked_for=True)
    if head.get("ArchiveStatus"):
        return _Archived(key, moves_back=True)
    if head.get("StorageClass") in ("GLACIER", "DEEP_ARCHIVE") and not restore:
        return _Archived(key)
    return None
