"""What earlier backups have stored, so that this one need not store it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from airflow_pg_s3.core.backup.chunk_cutter import METHOD
from airflow_pg_s3.core.backup.known_chunks import KnownChunks
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.reporting import Log, plural
from airflow_pg_s3.core.repository.backup_id import time_of
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import Repository, StoredManifest, read_manifest, read_members
from airflow_pg_s3.core.repository.verification_record import Evidence, Verification, read_evidence
from airflow_pg_s3.core.s3.object_lock import ObjectLocks

if TYPE_CHECKING:
    from airflow_pg_s3.core.backup.request import BackupRequest

_MOST_BACKUPS = 5
_MOST_EVIDENCE = 100


@dataclass(frozen=True, kw_only=True)
class EarlierChunks:
    """What may be referred to.

    :param average_bytes: how long the newest backup's chunks are on average; None if there is none.
    """

    known: KnownChunks = field(default_factory=KnownChunks)
    average_bytes: int | None = None


def read_earlier(request: BackupRequest, repository: Repository, now: datetime, log: Log) -> EarlierChunks:
    """Read which chunks the newest backups for the same recipients consist of.

    :param now: by the source server's clock.
    :raises StorageError: S3 failed.
    """
    if request.full:
        log.info("all is stored anew, as full=True asks for it")
        return EarlierChunks()
    newest = list(_newest(repository, request, log))
    if not newest:
        return EarlierChunks()
    if locked := _locked(request, repository):
        log.info("all is stored anew, as %s", locked)
        return EarlierChunks()
    if _is_damaged(newest[0].manifest, repository, log):
        log.info("all is stored anew, as the last verification has found objects damaged")
        return EarlierChunks()
    if (oldest := _oldest(newest[0].manifest, now)) + request.full_every <= now:
        log.info(
            "all is stored anew, as the newest backup refers to what was stored on %s, and full_every is %s",
            f"{oldest:%Y-%m-%d}", request.full_every,
        )  # fmt: skip
        return EarlierChunks()
    known = KnownChunks()
    for stored in newest:
        try:
            _add(known, stored, repository, not_before=now - request.full_every)
        except PgS3Error as error:
            log.warning("backup %s is not referred to: %s", stored.manifest.backup_id, error)
    log.info("%s of earlier backups: what has not changed since is not stored again", plural(len(known), "chunk"))
    return EarlierChunks(known=known, average_bytes=newest[0].manifest.chunking.average_bytes)


def _locked(request: BackupRequest, repository: Repository) -> str | None:
    """Why nothing may be referred to because of locks; None if that is not so."""
    why = "the retention of what is referred to would end before that of the backup"
    if any(name.startswith("ObjectLock") for name in request.s3_extra_args):
        return f"s3_extra_args asks for Object Lock: {why}"
    if ObjectLocks(repository.client, repository.bucket).may_be_on:
        return f"the bucket has Object Lock, or the AWS connection may not see whether it has: {why}"
    return None


def _is_damaged(newest: Manifest, repository: Repository, log: Log) -> bool:
    """True if the last verification that tells something has found damage to which the newest may refer."""
    for ref in islice(repository.newest_first(newest.database), _MOST_EVIDENCE):
        if not ref.has_evidence:
            continue
        try:
            verified = read_manifest(repository.client, ref.uri)
            evidence = read_evidence(repository.client, repository.bucket, verified)
        except PgS3Error as error:
            log.warning("what verifications have found of %s is not known: %s", ref.uri, error)
            continue
        if evidence is not None and (last := _last_that_tells(evidence)) is not None:
            has_rotten = any(found.kind == "object" for found in last.differences)
            return has_rotten and not newest.runs.keys().isdisjoint(verified.manifest.runs)
    return False


def _last_that_tells(evidence: Evidence) -> Verification | None:
    return next((one for one in evidence.verifications if one.outcome != "could not verify"), None)


def _newest(repository: Repository, request: BackupRequest, log: Log) -> Iterator[StoredManifest]:
    """Yield the newest backups for the same recipients, up to one that leaves nothing out."""
    recipients = sorted(request.age_recipients)
    for count, ref in enumerate(repository.newest_first(request.source.database)):
        if count == _MOST_BACKUPS:
            return
        try:
            stored = read_manifest(repository.client, ref.uri)
            is_settled = repository.is_settled(request.source.database, stored.manifest.backup_id)
        except PgS3Error as error:
            log.warning("%s is not referred to: %s", ref.uri, error)
            continue
        if not is_settled:
            continue  # its manifest may yet be taken back, and its runs with it
        encryption = stored.manifest.encryption
        if recipients != sorted(encryption.recipients if encryption is not None else []):
            continue
        if stored.manifest.chunking.method != METHOD:
            continue
        yield stored
        if not stored.manifest.dump.left_out_by:
            return


def _oldest(manifest: Manifest, now: datetime) -> datetime:
    """When the oldest of what it refers to was stored."""
    return min((time_of(backup_id) or now for backup_id in manifest.runs), default=now)


def _add(known: KnownChunks, stored: StoredManifest, repository: Repository, *, not_before: datetime) -> None:
    """Take note of the chunks of a backup that are there, and not too old."""
    folders = [
        f"{stored.base}{backup_id}/"
        for backup_id in stored.manifest.runs
        if (time_of(backup_id) or not_before) >= not_before
    ]
    sizes = repository.sizes(folders)
    for member in read_members(repository.client, repository.bucket, stored):
        for chunk in member.chunks:
            # What is gone or cut off is stored anew, instead of making every backup fail from now on.
            if sizes.get(stored.base + chunk.key, 0) >= chunk.offset + chunk.stored_bytes:
                known.add(chunk)
