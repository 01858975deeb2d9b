"""Where backups lie on S3. docs/format.md describes the layout for others.

::

    s3://bucket/prefix/<database>/<backup id>.json     the manifest: exists <=> the backup is complete
    s3://bucket/prefix/<database>/<backup id>/...      its objects
    s3://bucket/prefix/<database>/<backup id>/begun    only while it is being made: who makes it
    s3://bucket/prefix/<database>/<backup id>/settled  from then on: other backups may refer to what it has stored
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import InputError, IntegrityError, StorageError
from airflow_pg_s3.core.repository import manifest as manifests
from airflow_pg_s3.core.repository.backup_id import is_of_backup, time_of
from airflow_pg_s3.core.repository.listing import MANIFEST_SUFFIX, BackupRef, Listing
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.members import Member, parse_members
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests
from airflow_pg_s3.core.s3.deletion import Deleter

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


BEGUN = "begun"
SETTLED = "settled"
"""Name of the object that says that nobody takes the manifest back any more: others may refer to the runs."""

_MANIFEST_LIMIT_BYTES = 1 << 30
_BEGUN_LIMIT_BYTES = 1 << 20


LIST_THEM = (
    "list the backups to see which there are; in place of an id may stand latest, latest-verified, or a time such "
    "as 2026-11-20T03:00"
)
"""What to do about a backup that does not exist."""


def is_external(uri: str) -> bool:
    """True if an URI leads to something other than one of our manifests, whose keys end in ``.json``."""
    return isinstance(uri, str) and not uri.endswith(MANIFEST_SUFFIX)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What is recorded while a backup is being made.

    :param instance: the source server that holds the lock (`ServerFacts.instance`).
    :param recipients: for whom its chunks are encrypted; none if they are not.
    """

    backup_id: str
    database: str
    instance: str
    recipients: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """What `begun` holds."""
        return json.dumps({"instance": self.instance, "recipients": self.recipients}).encode()


class Repository:
    """The backups under one prefix of one bucket.

    :param client: boto3 S3 client.
    :param uri: ``s3://bucket/any/prefix``; `root` is the same without a slash at its end.
    :raises InputError: a malformed URI.
    """

    def __init__(self, client: S3Client, uri: str) -> None:
        self.client = client
        self.bucket, key = s3_requests.parse_uri(uri, parameter="repository")
        self._prefix = key.strip("/") + "/" if key.strip("/") else ""
        self.root = self.uri(self._prefix).rstrip("/")
        if "//" in self._prefix or any(part in (".", "..") for part in self._prefix.split("/")):
            raise InputError(f"repository {uri!r} has an empty, '.' or '..' path segment")

    def base(self, database: str) -> str:
        """Key prefix of a database's backups."""
        name = quote(database, safe="")
        # Some tools take these for directories.
        return f"{self._prefix}{name.replace('.', '%2E') if set(name) == {'.'} else name}/"

    def manifest_key(self, database: str, backup_id: str) -> str:
        """Key of a backup's manifest."""
        return f"{self.base(database)}{backup_id}{MANIFEST_SUFFIX}"

    def uri(self, key: str) -> str:
        """URI of a key of this repository's bucket."""
        return f"s3://{self.bucket}/{key}"

    def databases(self) -> list[str]:
        """List the databases that something is stored for."""
        _, folders = self._list(self._prefix)
        return [unquote(folder.removeprefix(self._prefix).rstrip("/")) for folder in folders]

    def backups(self, database: str) -> list[BackupRef]:
        """List the complete backups of one database, newest first."""
        return self._listing(database).complete()

    def newest_first(self, database: str, before: datetime | None = None) -> Iterator[BackupRef]:
        """Yield the complete backups of one database, newest first, listing only as far back as is asked for.

        :param before: only those whose id is of this time or older; ids have whole seconds.
        """
        return self._listing(database).newest_first(before)

    def beginning_with(self, database: str, text: str) -> list[BackupRef]:
        """List the complete backups of one database whose ids begin with a text, newest first."""
        return self._listing(database).beginning_with(text)

    def _listing(self, database: str) -> Listing:
        return Listing(self.client, bucket=self.bucket, base=self.base(database), database=database)

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

    def abandoned(self, database: str) -> Iterator[Begun]:
        """Yield the backups that were begun and not committed; some of them may still be being made.

        Others may refer to the runs of one that was settled, and has lost its manifest since: that is for prunes.
        """
        base = self.base(database)
        objects, folders = self._list(base)
        complete = {entry["Key"].removesuffix(MANIFEST_SUFFIX) for entry in objects}
        for folder in folders:
            backup_id = folder.removeprefix(base).rstrip("/")
            if time_of(backup_id) and folder.rstrip("/") not in complete:
                begun = self._begun(database, backup_id)
                if begun is not None and not self.is_settled(database, backup_id):
                    yield begun

    def _begun(self, database: str, backup_id: str) -> Begun | None:
        """Read the record of a backup that was begun; None if there is none that can be read."""
        key = f"{self.base(database)}{backup_id}/{BEGUN}"
        try:
            body = s3_requests.get_object(self.client, Bucket=self.bucket, Key=key)["Body"].read(
                _BEGUN_LIMIT_BYTES
            )
            record = json.loads(body)
            return Begun(
                backup_id=backup_id,
                database=database,
                instance=str(record["instance"]),
                recipients=tuple(map(str, record.get("recipients", ()))),
            )
        except (self.client.exceptions.NoSuchKey, ValueError, KeyError, TypeError, RecursionError):
            return None
        except ClientError as error:
            refusal = s3_errors.explain_unreadable(error, self.bucket, key)
            if isinstance(refusal, s3_errors.Unreadable):
                return None
            raise refusal from error
        except BotoCoreError as error:
            raise StorageError(f"{self.uri(key)} cannot be read: {error}") from error

    def is_committed(self, database: str, backup_id: str) -> bool:
        """True if the backup's manifest exists.

        :raises StorageError: S3 does not say.
        """
        return self._exists(self.manifest_key(database, backup_id), f"backup {backup_id} is complete")

    def is_settled(self, database: str, backup_id: str) -> bool:
        """True if nobody takes the backup's manifest back, so that other backups may refer to its runs.

        :raises StorageError: S3 does not say.
        """
        return self._exists(
            f"{self.base(database)}{backup_id}/{SETTLED}", f"others may refer to backup {backup_id}"
        )

    def _exists(self, key: str, question: str) -> bool:
        try:
            self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if s3_errors.status_of(error) == 404:
                return False
            raise StorageError(f"cannot tell whether {question}: {error}") from error
        except BotoCoreError as error:
            raise StorageError(f"cannot tell whether {question}: {error}") from error
        return True

    def remove_data(self, database: str, backup_id: str) -> int:
        """Delete the objects of a backup that has no manifest, and to whose runs no other refers.

        :returns: how many objects were deleted.
        :raises StorageError: something could not be removed.
        """
        folder = f"{self.base(database)}{backup_id}/"
        deleter = Deleter(self.client, self.bucket)
        count, last = 0, []
        try:
            for page in s3_requests.list_pages(self.client, Bucket=self.bucket, Prefix=folder):
                keys = [entry["Key"] for entry in page.get("Contents", [])]
                count += len(keys)
                # The record of the backup goes last: while it is there, the rest is found.
                last += [key for key in keys if key == folder + BEGUN]
                _delete(deleter, [key for key in keys if key != folder + BEGUN])
            _delete(deleter, last)
        except (ClientError, BotoCoreError) as error:
            raise StorageError(f"cannot remove what is left in {self.uri(folder)}: {error}") from error
        return count

    def retract(self, database: str, backup_id: str) -> None:
        """Delete the manifest of a backup whose objects may not all be there, so that it is none any more.

        :raises StorageError: it cannot be deleted.
        """
        key = self.manifest_key(database, backup_id)
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise StorageError(
                f"{self.uri(key)} may be incomplete, and cannot be deleted: delete it: {error}"
            ) from error

    def check_access(self, database: str) -> None:
        """Make sure that backups can be stored: the bucket exists and may be listed.

        :raises InputError: it doesn't, or may not; or the repository's URI names a backup.
        """
        *above, last = self._prefix.rstrip("/").split("/")
        if is_of_backup(last):
            meant = self.uri("/".join(above[:-1])).rstrip("/")
            raise InputError(f"{self.root} names a backup, and not a repository: did you mean {meant}?")
        try:
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.base(database), MaxKeys=1)
        except ClientError as error:
            raise s3_errors.explain_refusal(error, self.bucket) from error
        except BotoCoreError as error:
            raise s3_errors.unreachable(error) from error

    def missing_objects(self, required: Mapping[str, int]) -> list[str]:
        """List the keys of objects that do not exist, or have less than the required bytes."""
        sizes = self.sizes_beside(required)
        lacking = [key for key, size in required.items() if sizes.get(key, 0) < size]
        # On some stores lists lag behind: what they lack is asked for by its name.
        return [key for key in lacking if (self._size_of(key) or 0) < required[key]]

    def sizes_beside(self, keys: Iterable[str]) -> dict[str, int]:
        """List the lengths of all objects in the folders of these, by key."""
        return self.sizes({f"{key.rpartition('/')[0]}/" for key in keys})

    def sizes(self, folders: Iterable[str]) -> dict[str, int]:
        """List the lengths of the objects in folders, by key."""
        return {entry["Key"]: entry["Size"] for folder in sorted(folders) for entry in self._pages(folder)}

    def _size_of(self, key: str) -> int | None:
        with s3_errors.translate_errors(self.bucket):
            try:
                return int(self.client.head_object(Bucket=self.bucket, Key=key)["ContentLength"])
            except ClientError as error:
                if s3_errors.status_of(error) == HTTPStatus.NOT_FOUND:
                    return None
                raise

    def _list(self, prefix: str) -> tuple[list[Any], list[str]]:
        objects: list[Any] = []
        folders: list[str] = []
        with s3_errors.translate_errors(self.bucket):
            for page in s3_requests.list_pages(self.client, Bucket=self.bucket, Prefix=prefix, Delimiter="/"):
                objects += page.get("Contents", [])
                folders += [folder["Prefix"] for folder in page.get("CommonPrefixes", [])]
        return objects, folders

    def _pages(self, prefix: str) -> Iterator[Any]:
        with s3_errors.translate_errors(self.bucket):
            for page in s3_requests.list_pages(self.client, Bucket=self.bucket, Prefix=prefix):
                yield from page.get("Contents", [])


def _delete(deleter: Deleter, keys: Sequence[str]) -> None:
    for refused in deleter.delete(keys):
        for one in refused:
            raise StorageError(f"cannot delete {one['Key']}: {one.get('Message')}")


def read_members(client: S3Client, bucket: str, stored: StoredManifest) -> Iterator[Member]:
    """Read the members of a backup.

    :raises Unreadable: S3 does not give their list out.
    :raises AccessDenied: there is no right to read it.
    :raises IntegrityError: it is not what was stored.
    """
    key = stored.base + stored.manifest.members_key
    try:
        data = s3_requests.get_object(client, Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if s3_errors.status_of(error) == HTTPStatus.NOT_FOUND:
            raise IntegrityError(f"{key} is missing") from error
        raise s3_errors.explain_unreadable(error, bucket, key) from error
    except BotoCoreError as error:
        raise StorageError(f"s3://{bucket}/{key} cannot be read: {error}") from error
    return parse_members(stored.manifest, data)


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
    :raises Unreadable: S3 does not give it out.
    :raises AccessDenied: there is no right to read it.
    :raises IntegrityError: it isn't one, or a hostile one.
    """
    data = read_manifest_bytes(client, uri)
    manifest = manifests.parse(data, where=uri)
    _, key = s3_requests.parse_uri(uri, parameter="backup")
    base, _, name = key.rpartition("/")
    if name != manifest.backup_id + MANIFEST_SUFFIX:
        raise IntegrityError(f"{uri} is the manifest of another backup, {manifest.backup_id}")
    return StoredManifest(manifest, f"{base}/" if base else "", hashlib.sha256(data).hexdigest())


def read_manifest_bytes(client: S3Client, uri: str) -> bytes:
    """Return the manifest at an URI as it is stored; nothing of it is checked but its length.

    :raises InputError: there is none.
    :raises Unreadable: S3 does not give it out.
    :raises AccessDenied: there is no right to read it.
    :raises IntegrityError: it is too long for one.
    """
    bucket, key = s3_requests.parse_uri(uri, parameter="backup")
    try:
        answer = s3_requests.get_object(client, Bucket=bucket, Key=key)
        if answer["ContentLength"] > _MANIFEST_LIMIT_BYTES:
            raise IntegrityError(f"{uri} is no manifest: it has {answer['ContentLength']} bytes")
        return answer["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            raise InputError(f"there is no backup {uri}: {LIST_THEM}") from error
        raise s3_errors.explain_unreadable(error, bucket, key) from error
    except BotoCoreError as error:
        raise s3_errors.unreachable(error) from error
