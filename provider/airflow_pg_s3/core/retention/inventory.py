"""What lies under one database's prefix, by one listing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_pg_s3.core.repository.backup_id import time_of
from airflow_pg_s3.core.repository.listing import EVIDENCE_SUFFIX, MANIFEST_SUFFIX
from airflow_pg_s3.core.repository.sweep_mark import SWEEPING
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What there is, by backup id. Keys that do not belong to a well-formed id are not in it.

    :param now: time of the listing, by S3's own clock or ours, whichever is behind: ages are never overestimated.
    :param complete: ids that have a manifest, newest first.
    :param evidence: when the evidence of an id was written.
    :param folders: ids that objects are stored for.
    :param is_marked: whether a sweep is at work, or was when it was killed.
    """

    now: datetime
    complete: list[str]
    evidence: dict[str, datetime]
    folders: set[str]
    is_marked: bool


def take_inventory(client: S3Client, bucket: str, base: str) -> Inventory:
    """Look at what there is.

    :param base: key prefix of the database's backups, with its slash.
    :raises AccessDenied: there is no such bucket, or no right to list it.
    :raises StorageError: S3 failed.
    """
    now = datetime.now(UTC)
    complete, evidence, folders, is_marked = [], {}, set(), False
    with s3_errors.translate_errors(bucket):
        for page in s3_requests.list_pages(client, Bucket=bucket, Prefix=base, Delimiter="/"):
            now = min(now, s3_requests.answered_at(page))
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(base)
                if name.endswith(EVIDENCE_SUFFIX) and time_of(name.removesuffix(EVIDENCE_SUFFIX)):
                    evidence[name.removesuffix(EVIDENCE_SUFFIX)] = entry["LastModified"]
                elif name.endswith(MANIFEST_SUFFIX) and time_of(name.removesuffix(MANIFEST_SUFFIX)):
                    complete.append(name.removesuffix(MANIFEST_SUFFIX))
                is_marked = is_marked or name == SWEEPING
            for folder in page.get("CommonPrefixes", []):
                name = folder["Prefix"].removeprefix(base).removesuffix("/")
                if time_of(name):
                    folders.add(name)
    complete.sort(reverse=True)
    return Inventory(now=now, complete=complete, evidence=evidence, folders=folders, is_marked=is_marked)
