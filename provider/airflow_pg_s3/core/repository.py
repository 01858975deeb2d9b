"""Where backups lie on S3. docs/format.md describes the layout for others.

::

    s3://bucket/prefix/<database>/<backup id>.json     the manifest: exists <=> the backup is complete
    s3://bucket/prefix/<database>/<backup id>/...      its objects
    s3://bucket/prefix/<database>/<backup id>/begun    only while it is being made: who makes it
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core import manifest as manifests
from airflow_pg_s3.core.errors import DataConflict, InputError, IntegrityError, PgS3Error, StorageError
from airflow_pg_s3.core.manifest import Manifest
from airflow_pg_s3.core.upload import accepted

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MANIFEST_SUFFIX = ".json"
EVIDENCE_SUFFIX = ".verified.json"
BEGUN = "begun"
_ID = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{6}")
_ID_TIME = "%Y%m%dT%H%M%SZ"
_URI = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{1,254})(?:/(.*))?", re.DOTALL)
_MANIFEST_LIMIT_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, order=True)
class BackupRef:
    """A complete backup, or another tool's archive, as a listing shows it. Sorts by time.

    :param created_at: when the dump began; for another tool's archive, when S3 got it.
    :param database: None for another tool's archive.
    :param object_bytes: size of the object listed: the manifest, or the archive.
    :param has_evidence: whether a verification of it is recorded.
    """

    created_at: datetime
    key: str
    bucket: str
    database: str | None
    backup_id: str | None
    object_bytes: int
    has_evidence: bool

    @property
    def uri(self) -> str:
        """URI of the manifest or archive."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What is recorded while a backup is being made.

    :param instance: the source server that holds the lock (`ServerFacts.instance`).
    """

    backup_id: str
    database: str
    instance: str


def new_backup_id(now: datetime) -> str:
    """Make an id for a backup that begins `now`; ids sort by time."""
    return f"{now.astimezone(UTC).strftime(_ID_TIME)}-{secrets.token_hex(3)}"


def _time_of(backup_id: str) -> datetime | None:
    """When a backup began by its id; None for what is no id."""
    match = _ID.fullmatch(backup_id)
    with contextlib.suppress(ValueError):  # such as month 13
        return datetime.strptime(match.group(1), _ID_TIME).replace(tzinfo=UTC) if match else None
    return None


def parse_uri(uri: str, *, parameter: str) -> tuple[str, str]:
    """Split ``s3://bucket/key``.

    :param parameter: name of the operator's argument, for the message.
    :raises InputError: it isn't one.
    """
    match = _URI.fullmatch(uri) if isinstance(uri, str) else None
    if match is None:
        raise InputError(f"{parameter} must look like s3://bucket/prefix, not {uri!r}")
    return match.group(1), match.group(2) or ""


class Repository:
    """The backups under one prefix of one bucket.

    :param client: boto3 S3 client.
    :param uri: ``s3://bucket/any/prefix``.
    :raises InputError: a malformed URI.
    """

    def __init__(self, client: S3Client, uri: str) -> None:
        self.client = client
        self.bucket, key = parse_uri(uri, parameter="repository")
        self._prefix = key.strip("/") + "/" if key.strip("/") else ""
        if "//" in self._prefix or any(part in (".", "..") for part in self._prefix.split("/")):
            raise InputError(f"repository {uri!r} has an empty, '.' or '..' path segment")

    def base(self, database: str) -> str:
        """Key prefix of a database's backups."""
        name = quote(database, safe="")
        # Some tools take these for directories.
        return f"{self._prefix}{name.replace('.', '%2E') if set(name) == {'.'} else name}/"

    def uri(self, key: str) -> str:
        """URI of a key of this repository's bucket."""
        return f"s3://{self.bucket}/{key}"

    def databases(self) -> list[str]:
        """List the databases that something is stored for."""
        _, folders = self._list(self._prefix)
        return [unquote(folder.removeprefix(self._prefix).rstrip("/")) for folder in folders]

    def backups(self, database: str) -> list[BackupRef]:
        """List the complete backups of one database, newest first."""
        base = self.base(database)
        objects, _ = self._list(base)
        sizes = {entry["Key"]: entry["Size"] for entry in objects}
        found = []
        for key, size in sizes.items():
            backup_id = key.removeprefix(base).removesuffix(MANIFEST_SUFFIX)
            if key.endswith(MANIFEST_SUFFIX) and (created_at := _time_of(backup_id)):
                found.append(
                    BackupRef(
                        created_at=created_at,
                        key=key,
                        bucket=self.bucket,
                        database=database,
                        backup_id=backup_id,
                        object_bytes=size,
                        has_evidence=base + backup_id + EVIDENCE_SUFFIX in sizes,
                    )
                )
        return sorted(found, reverse=True)

    def foreign_archives(self, pattern: str) -> list[BackupRef]:
        """List objects of any other tool whose key below the prefix matches a glob pattern, newest first."""
        found = []
        for entry in self._pages(self._prefix):
            name = entry["Key"].removeprefix(self._prefix)
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition("/")[2], pattern):
                found.append(
                    BackupRef(
                        created_at=entry["LastModified"].astimezone(UTC),
                        key=entry["Key"],
                        bucket=self.bucket,
                        database=None,
                        backup_id=None,
                        object_bytes=entry["Size"],
                        has_evidence=False,
                    )
                )
        return sorted(found, reverse=True)

    def stage(
        self, database: str, backup_id: str, instance: str, extra_args: Mapping[str, Any] | None = None
    ) -> StagedBackup:
        """Begin a backup: what is stored for it vanishes unless it is committed.

        :param extra_args: arguments for the S3 requests that accept them.
        """
        return StagedBackup(
            self, Begun(backup_id=backup_id, database=database, instance=instance), extra_args or {}
        )

    def abandoned(self, database: str) -> Iterator[Begun]:
        """Yield the backups that were begun and not committed; some of them may still be being made."""
        base = self.base(database)
        objects, folders = self._list(base)
        complete = {entry["Key"].removesuffix(MANIFEST_SUFFIX) for entry in objects}
        for folder in folders:
            backup_id = folder.removeprefix(base).rstrip("/")
            if _ID.fullmatch(backup_id) and folder.rstrip("/") not in complete:
                no_record = (self.client.exceptions.NoSuchKey, ValueError, KeyError, TypeError, RecursionError)
                with self._listing(), contextlib.suppress(*no_record):
                    body = self.client.get_object(Bucket=self.bucket, Key=folder + BEGUN)["Body"].read(4096)
                    record = json.loads(body)
                    yield Begun(backup_id=backup_id, database=database, instance=record["instance"])

    def is_committed(self, database: str, backup_id: str) -> bool:
        """Whether the backup's manifest exists."""
        try:
            self.client.head_object(Bucket=self.bucket, Key=f"{self.base(database)}{backup_id}{MANIFEST_SUFFIX}")
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise StorageError(f"cannot tell whether backup {backup_id} is complete: {error}") from error
        except BotoCoreError as error:
            raise StorageError(f"cannot tell whether backup {backup_id} is complete: {error}") from error
        return True

    def remove_data(self, database: str, backup_id: str) -> int:
        """Abort the uploads and delete the objects of a backup that has no manifest.

        :returns: how many objects were deleted.
        :raises StorageError: something could not be removed.
        """
        folder = f"{self.base(database)}{backup_id}/"
        try:
            for upload in self._uploads(folder):
                with contextlib.suppress(self.client.exceptions.NoSuchUpload):
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
            keys = [entry["Key"] for entry in self._pages(folder)]
            # The record of the backup goes last: while it is there, the rest is found.
            keys.sort(key=lambda key: key == folder + BEGUN)
            for start in range(0, len(keys), 1000):
                batch: Any = {"Objects": [{"Key": key} for key in keys[start : start + 1000]], "Quiet": True}
                answer = self.client.delete_objects(Bucket=self.bucket, Delete=batch)
                for failed in answer.get("Errors", []):
                    raise StorageError(f"cannot delete {failed.get('Key')}: {failed.get('Message')}")
        except (ClientError, BotoCoreError) as error:
            raise StorageError(f"cannot remove what is left in {self.uri(folder)}: {error}") from error
        return len(keys)

    def put_new(self, key: str, body: bytes, extra_args: Mapping[str, Any]) -> None:
        """Store a small JSON object that must not exist yet.

        :raises DataConflict: it does, and holds something else.
        :raises StorageError: S3 refused; the object does not exist.
        :raises Ambiguous: S3 failed, and may still come to store it.
        """
        try:
            arguments: Any = accepted(self.client, "PutObject", extra_args) | {
                "Bucket": self.bucket,
                "Key": key,
                "Body": body,
                "IfNoneMatch": "*",
                "ContentType": "application/json",
            }
            self.client.put_object(**arguments)
        except (ClientError, BotoCoreError) as error:
            # The answer to a first attempt may have been lost on its way: then it is our own that is there.
            is_ours = self._holds(key, body)
            if is_ours:
                return
            if _status(error) == 412 and (is_ours is False or _is_refused(error)):
                raise DataConflict(f"{self.uri(key)} exists already, and is not ours") from error
            if _is_refused(error):
                raise StorageError(f"cannot write {self.uri(key)}: {error}") from error
            raise Ambiguous(f"cannot write {self.uri(key)}: {error}") from error

    def _holds(self, key: str, body: bytes) -> bool | None:
        """Whether this is what S3 holds; None if that can't be read."""
        with contextlib.suppress(ClientError, BotoCoreError):
            return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() == body
        return None

    def check_access(self, database: str) -> None:
        """Make sure that the bucket exists and may be listed.

        :raises InputError: it doesn't, or may not.
        """
        try:
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.base(database), MaxKeys=1)
        except ClientError as error:
            raise explain_refusal(error, self.bucket) from error
        except BotoCoreError as error:
            raise StorageError(f"S3 cannot be reached: {error}") from error

    def missing_objects(self, database: str, backup_id: str, expected: Mapping[str, int]) -> list[str]:
        """List the keys that do not exist with the expected size."""
        stored = {e["Key"]: e["Size"] for e in self._pages(f"{self.base(database)}{backup_id}/")}
        return [key for key, size in expected.items() if stored.get(key) != size]

    def _list(self, prefix: str) -> tuple[list[Any], list[str]]:
        objects: list[Any] = []
        folders: list[str] = []
        with self._listing():
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix, Delimiter="/"
            ):
                objects += page.get("Contents", [])
                folders += [folder["Prefix"] for folder in page.get("CommonPrefixes", [])]
        return objects, folders

    def _pages(self, prefix: str) -> Iterator[Any]:
        with self._listing():
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                yield from page.get("Contents", [])

    def _uploads(self, prefix: str) -> Iterable[Any]:
        for page in self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.bucket, Prefix=prefix
        ):
            yield from page.get("Uploads", [])

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise explain_refusal(error, self.bucket) from error
        except BotoCoreError as error:
            raise StorageError(f"S3 cannot be reached: {error}") from error


class Ambiguous(StorageError):
    """It is not known whether S3 has done what it was asked."""


class StagedBackup:
    """A backup being made. Leaving the context without `commit` removes all that was stored for it."""

    def __init__(self, repository: Repository, begun: Begun, extra_args: Mapping[str, Any]) -> None:
        self._repository = repository
        self._begun = begun
        self._extra_args = extra_args
        self._remove_on_exit = True
        self._committed = False
        self.base = repository.base(begun.database)
        self.folder = f"{self.base}{begun.backup_id}/"
        self.manifest_key = f"{self.base}{begun.backup_id}{MANIFEST_SUFFIX}"

    def __enter__(self) -> StagedBackup:
        if self._repository.is_committed(self._begun.database, self._begun.backup_id):
            raise DataConflict(f"{self._repository.uri(self.manifest_key)} exists already, and is not ours")
        record = json.dumps({"instance": self._begun.instance}).encode()
        # Must not exist: from here on, all that is in the folder is ours.
        self._repository.put_new(self.folder + BEGUN, record, self._extra_args)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._committed and error is None:
            # Not needed any more, and harmless if it stays.
            with contextlib.suppress(ClientError, BotoCoreError):
                self._repository.client.delete_object(Bucket=self._repository.bucket, Key=self.folder + BEGUN)
        if not self._remove_on_exit:
            return
        try:
            self._repository.remove_data(self._begun.database, self._begun.backup_id)
        except PgS3Error as trouble:
            if error is None:
                raise
            error.add_note(f"{trouble}; the next backup of this database will try again")

    def retract(self) -> None:
        """Make a backup that was committed not exist; its objects stay for the next run to remove.

        :raises StorageError: the manifest cannot be deleted.
        """
        try:
            self._repository.client.delete_object(Bucket=self._repository.bucket, Key=self.manifest_key)
        except (ClientError, BotoCoreError) as error:
            uri = self._repository.uri(self.manifest_key)
            raise StorageError(f"{uri} may be incomplete, and cannot be deleted: delete it: {error}") from error

    def commit(self, manifest: Manifest) -> None:
        """Make the backup exist: its manifest is stored, and only if there is none under its key.

        :raises StorageError: an object of it is not there, or the manifest cannot be written.
        :raises DataConflict: a manifest of somebody else has its key.
        """
        expected = {self.base + record.key: record.stored_bytes for record in manifest.objects}
        missing = self._repository.missing_objects(manifest.database, manifest.backup_id, expected)
        if missing:
            raise StorageError(f"{len(missing)} objects are not as they were stored, such as {missing[0]}")
        # From here on the manifest may come to exist at any moment, even after an error, and then its objects
        # must as well. Only S3's clear no gives leave to remove them.
        self._remove_on_exit = False
        try:
            self._repository.put_new(self.manifest_key, manifest.to_json(), self._extra_args)
        except Ambiguous:
            raise
        except PgS3Error:
            self._remove_on_exit = True
            raise
        self._committed = True


class StoredManifest(NamedTuple):
    """A manifest as it lies on S3.

    :param base: key prefix that its objects' keys are relative to.
    :param sha256: of its bytes.
    """

    manifest: Manifest
    base: str
    sha256: str


def read_manifest(client: S3Client, uri: str) -> StoredManifest:
    """Read the manifest at an URI.

    :raises InputError: there is none, or this version cannot read it.
    :raises IntegrityError: it isn't one, or a hostile one.
    """
    bucket, key = parse_uri(uri, parameter="backup")
    try:
        answer = client.get_object(Bucket=bucket, Key=key)
        if answer["ContentLength"] > _MANIFEST_LIMIT_BYTES:
            raise IntegrityError(f"{uri} is no manifest: it has {answer['ContentLength']} bytes")
        data = answer["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            raise InputError(f"there is no backup {uri}: list the backups to see which there are") from error
        raise explain_refusal(error, bucket) from error
    except BotoCoreError as error:
        raise StorageError(f"{uri} cannot be read: {error}") from error
    manifest = manifests.parse(data, where=uri)
    base, _, name = key.rpartition("/")
    if name != manifest.backup_id + MANIFEST_SUFFIX:
        raise IntegrityError(f"{uri} is the manifest of another backup, {manifest.backup_id}")
    return StoredManifest(manifest, f"{base}/" if base else "", hashlib.sha256(data).hexdigest())


def explain_refusal(error: ClientError, bucket: str) -> InputError | StorageError:
    """Turn S3's refusal into one sentence that says what to do."""
    code = error.response["Error"]["Code"]
    if code == "NoSuchBucket":
        return InputError(f"the bucket {bucket!r} does not exist: create it, or correct the URI")
    if _status(error) in (401, 403):
        return InputError(f"S3 refuses access to bucket {bucket!r} ({code}): check the AWS connection's rights")
    return StorageError(f"S3 failed on bucket {bucket!r}: {error}")


def _status(error: Exception) -> int:
    """HTTP status of S3's answer, 0 if there was none."""
    if isinstance(error, ClientError):
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return 0


def _is_refused(error: Exception) -> bool:
    """Whether S3 has said no to all of a request, so that nothing of it can happen later.

    A no to a second attempt says nothing of the first; a conflict (409) means that another one is being made.
    """
    if not isinstance(error, ClientError) or error.response["ResponseMetadata"].get("RetryAttempts"):
        return False
    return 400 <= _status(error) < 500 and _status(error) not in (408, 409, 429)
