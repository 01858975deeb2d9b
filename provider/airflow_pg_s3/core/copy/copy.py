"""The copy of a backup in another repository: what the other side lacks, and the manifest last."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_pg_s3.core.copy.transfer import Transfer
from airflow_pg_s3.core.errors import DataConflict, InputError, IntegrityError
from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.reporting import Log, byte_progress, end_stage, human
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.presence import Presence
from airflow_pg_s3.core.repository.repository import (
    Begun,
    Repository,
    StoredManifest,
    read_manifest,
    read_manifest_bytes,
)
from airflow_pg_s3.core.repository.thaw import refuse_archived
from airflow_pg_s3.core.s3 import requests as s3_requests
from airflow_pg_s3.core.s3.parallel import in_parallel

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# No server's name: no backup takes a copy for its own that was killed.
_INSTANCE = "copy"


@dataclass(frozen=True, kw_only=True)
class CopyRequest:
    """What to copy.

    :param backup: URI of the manifest.
    :param s3_extra_args: arguments for the requests to the other repository that accept them.
    """

    backup: str
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """A copy that is complete.

    :param source: URI of the manifest that it is a copy of.
    :param copied_objects: those that the other side lacked, of so many bytes.
    """

    uri: str
    source: str
    manifest: Manifest
    copied_objects: int
    copied_bytes: int
    duration_seconds: float

    @property
    def facts(self) -> dict[str, Any]:
        """What people and programs want to know of it, in plain values."""
        return {
            "uri": self.uri,
            "source": self.source,
            "backup_id": self.manifest.backup_id,
            "database": self.manifest.database,
            "created_at": self.manifest.created_at.isoformat(),
            "stored_bytes": self.manifest.stored_bytes,
            "copied_objects": self.copied_objects,
            "copied_bytes": self.copied_bytes,
            "duration_seconds": self.duration_seconds,
        }


@translate_errors
def copy(
    request: CopyRequest, client: S3Client, other: Repository, *, cancel: threading.Event, log: Log
) -> CopyResult:
    """Copy a backup into another repository, under its own id; do nothing if it is there.

    What an attempt has copied before it failed or was killed serves the next one, and goes with a prune of the
    other repository if there is none. Evidence is not copied: it speaks of the objects that were read.

    :param client: boto3 S3 client that reads the backup.
    :param other: where the copy is to be.
    :param cancel: set from anywhere to stop.
    :raises InputError: there is no such backup, or it lies in that repository.
    :raises IntegrityError: objects of the backup are missing or damaged.
    :raises DataConflict: something else has the copy's name.
    :raises StorageError: S3 failed.
    :raises Cancelled: told to stop.
    """
    began = time.monotonic()
    stored = read_manifest(client, request.backup)
    bucket, _ = s3_requests.parse_uri(request.backup, parameter="backup")
    manifest = stored.manifest
    copied = _Copy(request, client, bucket, stored, other, log)
    if copied.is_where_it_would_be():
        raise InputError(f"{request.backup} lies in that repository already: name another one to copy it to")
    other.check_access(manifest.database)
    if other.is_committed(manifest.database, manifest.backup_id):
        copied.check_that_it_is_the_same()
        log.info("%s is complete already", copied.uri)
    else:
        refuse_archived(client, request.backup, cancel=cancel)
        copied.make(_read(client, request.backup, stored), cancel)
        end_stage(log)
    return CopyResult(
        uri=copied.uri,
        source=request.backup,
        manifest=manifest,
        copied_objects=copied.transfer.objects,
        copied_bytes=copied.transfer.bytes,
        duration_seconds=round(time.monotonic() - began, 3),
    )


class _Copy:
    def __init__(
        self,
        request: CopyRequest,
        client: S3Client,
        bucket: str,
        stored: StoredManifest,
        other: Repository,
        log: Log,
    ) -> None:
        manifest = stored.manifest
        self._request = request
        self._client = client
        self._bucket = bucket
        self._stored = stored
        self._manifest = manifest
        self._other = other
        self._log = log
        self._base = other.base(manifest.database)
        self._key = other.manifest_key(manifest.database, manifest.backup_id)
        self.uri = other.uri(self._key)
        self.transfer = Transfer(
            (client, bucket, stored.base),
            (other.client, other.bucket, self._base),
            is_encrypted=manifest.encryption is not None,
            extra_args=request.s3_extra_args,
            log=log,
        )

    def is_where_it_would_be(self) -> bool:
        endpoints = [client.meta.endpoint_url for client in (self._client, self._other.client)]
        places = [(self._bucket, self._stored.base), (self._other.bucket, self._base)]
        return endpoints[0] == endpoints[1] and places[0] == places[1]

    def check_that_it_is_the_same(self) -> None:
        if read_manifest(self._other.client, self.uri).sha256 != self._stored.sha256:
            raise DataConflict(f"{self.uri} exists already, and is another backup")

    def make(self, body: bytes, cancel: threading.Event) -> None:
        """Bring the objects, then the manifest."""
        manifest, extra_args = self._manifest, self._request.s3_extra_args
        begun = Begun(backup_id=manifest.backup_id, database=manifest.database, instance=_INSTANCE)
        presence = Presence(self._other, begun, extra_args, cancel=cancel, log=self._log)
        presence.resume()
        try:
            # Before it is known what is there: from here on, no prune deletes it.
            presence.wait_for_sweep()
            sizes = self._sizes()
            self._bring(sizes, cancel)
            presence.confirm({self._base + name: size for name, size in sizes.items()})
        except BaseException:
            presence.end()
            # What was brought stays for the next attempt, and must not keep prunes from their work until then.
            presence.withdraw()
            raise
        try:
            # The manifest may come to exist from here on, even after an error: so `begun` stays then.
            s3_requests.put_if_absent(self._other.client, self._other.bucket, self._key, body, extra_args)
        finally:
            presence.end()
        presence.settle()
        self._log.info(
            "copied %s to %s: %d objects, %s, and the manifest",
            manifest.backup_id,
            self.uri,
            self.transfer.objects,
            human(self.transfer.bytes),
        )

    def _sizes(self) -> dict[str, int]:
        """How long each object of the backup is, by keys relative to the manifest's folder."""
        base = self._stored.base
        source = Repository(self._client, f"s3://{self._bucket}")
        keys = list(self._manifest.object_keys())
        found = source.sizes_beside(base + key for key in keys)
        missing = [key for key in keys if base + key not in found]
        if missing:
            raise IntegrityError(
                f"{len(missing)} objects of {self._request.backup} are missing, such as {base}{missing[0]}: "
                "verify the backup"
            )
        return {key: found[base + key] for key in keys}

    def _bring(self, sizes: Mapping[str, int], cancel: threading.Event) -> None:
        there = self._other.sizes_beside(self._base + key for key in sizes)
        lacking = [key for key, size in sizes.items() if there.get(self._base + key) != size]
        total = sum(sizes[key] for key in lacking)
        transfer = self.transfer
        progress = byte_progress(self._log, "copied", lambda: transfer.bytes, total)

        def bring(key: str) -> None:
            transfer.bring(key, sizes[key], is_record=key == self._manifest.members_key)

        for _ in in_parallel(bring, lacking, cancel=cancel):
            progress.tick()


def _read(client: S3Client, uri: str, stored: StoredManifest) -> bytes:
    """The very bytes of the manifest, as its digest and its seal are over them."""
    body = read_manifest_bytes(client, uri)
    if hashlib.sha256(body).hexdigest() != stored.sha256:
        raise IntegrityError(f"{uri} has changed while it was read")
    return body
