"""What lies under one database's prefix, by one listing of keys and one of multipart uploads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from airflow_pg_s3.core import s3
from airflow_pg_s3.core.backup_id import time_of
from airflow_pg_s3.core.listing import EVIDENCE_SUFFIX, MANIFEST_SUFFIX

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: datetime


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object."""

    key: str
    stored_bytes: int
    modified: datetime


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What there is, by backup id. Keys that do not belong to a well-formed id are not in it.

    :param now: time of the listing, by S3's own clock or ours, whichever is behind: ages are never overestimated.
    :param complete: ids that have a manifest, newest first.
    :param evidence: when the evidence of an id was written.
    :param folders: ids that objects are stored for.
    :param uploads: multipart uploads by the id that they are for.
    """

    now: datetime
    complete: list[str]
    evidence: dict[str, datetime]
    folders: set[str]
    uploads: dict[str, list[Upload]]


def survey(client: S3Client, bucket: str, base: str) -> Survey:
    """Look at what there is.

    :param base: key prefix of the database's backups, with its slash.
    :raises Refused: there is no such bucket, or no right to list it.
    :raises StorageError: S3 failed.
    """
    now = datetime.now(UTC)
    complete, evidence, folders = [], {}, set()
    with s3.explained(bucket):
        for page in s3.list_pages(client, Bucket=bucket, Prefix=base, Delimiter="/"):
            now = min(now, _answered_at(page))
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(base)
                if name.endswith(EVIDENCE_SUFFIX) and time_of(name.removesuffix(EVIDENCE_SUFFIX)):
                    evidence[name.removesuffix(EVIDENCE_SUFFIX)] = entry["LastModified"]
                elif name.endswith(MANIFEST_SUFFIX) and time_of(name.removesuffix(MANIFEST_SUFFIX)):
                    complete.append(name.removesuffix(MANIFEST_SUFFIX))
            for folder in page.get("CommonPrefixes", []):
                name = folder["Prefix"].removeprefix(base).removesuffix("/")
                if time_of(name):
                    folders.add(name)
    uploads: dict[str, list[Upload]] = {}
    for upload in _uploads(client, bucket, base):
        backup_id, slash, _ = upload.key.removeprefix(base).partition("/")
        if slash and time_of(backup_id):
            uploads.setdefault(backup_id, []).append(upload)
    return Survey(
        now=now, complete=sorted(complete, reverse=True), evidence=evidence, folders=folders, uploads=uploads
    )


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What is stored, and being stored, for one backup."""

    objects: list[Stored]
    uploads: list[Upload]


def look_into(client: S3Client, bucket: str, folder: str) -> Folder:
    """List what is in a backup's folder now.

    :param folder: key prefix, with its slash.
    """
    with s3.explained(bucket):
        pages = s3.list_pages(client, Bucket=bucket, Prefix=folder)
        objects = [
            Stored(key=entry["Key"], stored_bytes=entry["Size"], modified=entry["LastModified"])
            for page in pages
            for entry in page.get("Contents", [])
        ]
    return Folder(objects=objects, uploads=list(_uploads(client, bucket, folder)))


def last_part_of(client: S3Client, bucket: str, upload: Upload) -> datetime:
    """When a multipart upload got its last part; when it was initiated, if it has none."""
    last = upload.initiated
    with s3.explained(bucket):
        try:
            for page in client.get_paginator("list_parts").paginate(
                Bucket=bucket, Key=upload.key, UploadId=upload.upload_id
            ):
                last = max([last, *(part["LastModified"] for part in page.get("Parts", []))])
        except client.exceptions.NoSuchUpload:
            pass  # completed or aborted just now
    return last


def _uploads(client: S3Client, bucket: str, prefix: str) -> Iterator[Upload]:
    with s3.explained(bucket):
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Uploads", []):
                yield Upload(key=entry["Key"], upload_id=entry["UploadId"], initiated=entry["Initiated"])


def _answered_at(answer: Any) -> datetime:
    """The end of the second in which S3 answered, by its own clock; ours if it does not say."""
    try:
        said = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)
    return said.replace(tzinfo=said.tzinfo or UTC) + timedelta(seconds=1)
