"""The backups that there are, with what their manifests and their evidence say."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import unquote

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.reporting import Log, human_age
from airflow_pg_s3.core.repository.listing import MANIFEST_SUFFIX, BackupRef
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import Repository, StoredManifest, read_manifest
from airflow_pg_s3.core.repository.verification_record import (
    Evidence,
    Level,
    Outcome,
    Verification,
    read_evidence,
)
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3.requests import parse_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_READS_AT_ONCE = 8
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verification has found, without the details.

    :param at: when it began.
    :param restore_seconds: how long it took to restore; None if nothing was restored.
    """

    outcome: Outcome
    level: Level
    at: datetime
    restore_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One complete backup.

    :param created_at: when the dump began, by the source server's clock.
    :param duration_seconds: how long the backup took.
    :param stored_bytes: that it consists of.
    :param new_stored_bytes: those of them that it has stored itself; it shares the others with earlier backups.
    :param left_out_by: options of pg_dump that left something out.
    :param newest_verdict: of the newest verification, whatever it has found; None if there is none.
    :param proof: of the newest verification that has restored and compared it; None if it is not verified.
    """

    ref: BackupRef
    backup_id: str
    database: str
    created_at: datetime
    duration_seconds: float
    labels: Mapping[str, str]
    stored_bytes: int
    new_stored_bytes: int
    raw_bytes: int
    tables: int
    rows: int
    left_out_by: Sequence[str]
    is_encrypted: bool
    newest_verdict: Verdict | None
    proof: Verdict | None

    @property
    def is_verified(self) -> bool:
        """True if it was restored and compared, and no later verification has failed."""
        return self.proof is not None

    def is_within(self, max_age: timedelta, now: datetime) -> bool:
        """True if it began no longer ago than `max_age`.

        One that began further in the future is not: the clock of its server was wrong, and it would seem young for
        ever.
        """
        return abs(now - self.created_at) <= max_age

    def state(self, now: datetime) -> str:
        """Say in a few words whether it is verified."""
        verdict = self.newest_verdict
        if verdict is None:
            return "not verified"
        ago = f"{human_age((now - verdict.at).total_seconds())} ago"
        if verdict.outcome == "verified" and verdict.level == "checksum":
            return f"{'verified; ' if self.is_verified else ''}checksums right {ago}"
        if verdict.outcome == "could not verify" and self.proof is not None:
            proven = human_age((now - self.proof.at).total_seconds())
            return f"verified {proven} ago (a later try could not verify)"
        return f"{verdict.outcome} {ago}"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which backups are wanted.

    :param database: None for those of all databases.
    :param before: only those made before this time.
    :param labels: only those that carry all of these.
    :param limit: the newest so many.
    """

    database: str | None = None
    before: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    verified_only: bool = False
    limit: int | None = None

    def fits(self, entry: Entry) -> bool:
        """True if this is one of those wanted."""
        # Ids have whole seconds, so that only the manifest tells whether a backup is before itself.
        return (
            (self.before is None or entry.created_at < self.before)
            and self.labels.items() <= entry.labels.items()
            and (entry.is_verified or not self.verified_only)
        )


def select(repository: Repository, selection: Selection, log: Log) -> list[Entry]:
    """List the backups that are wanted, newest first, reading no more than that takes.

    :raises InputError: there is no such bucket, no right to use it, or S3 gives out none of the manifests.
    :raises StorageError: S3 failed.
    """
    refs = _refs(repository, selection)
    if selection.verified_only:
        refs = (ref for ref in refs if ref.has_evidence)
    # Without other wishes, exactly the newest ones will fit; otherwise nobody knows.
    all_fit = not (selection.verified_only or selection.labels or selection.before)
    batch = min(selection.limit, _BATCH) if selection.limit and all_fit else _READS_AT_ONCE
    with contextlib.closing(_entries(repository.client, refs, log, batch)) as entries:
        return list(islice(filter(selection.fits, entries), selection.limit))


def list_archives(repository: Repository, pattern: str, wanted: Selection) -> list[BackupRef]:
    """List other tools' archives, newest first.

    :param pattern: glob pattern of their keys below the repository's prefix.
    :raises InputError: something is wanted that such archives do not have; there is no such bucket, or no right.
    :raises StorageError: S3 failed.
    """
    for name in ("database", "labels", "verified_only"):
        if getattr(wanted, name):
            raise InputError(
                f"{name} cannot be combined with pattern, as it is unknown of another tool's archive: select by "
                "the pattern, or by the repository's prefix"
            )
    refs = repository.foreign_archives(pattern)
    return [ref for ref in refs if wanted.before is None or ref.created_at < wanted.before][: wanted.limit]


def read_uri(client: S3Client, uri: str, log: Log) -> Entry:
    """Read what is known of a backup, by the URI of its manifest.

    :raises InputError: there is no such backup, or nothing can be restored from it.
    :raises StorageError: S3 failed.
    """
    bucket, key = parse_uri(uri, parameter="backup")
    folder, _, name = key.rpartition("/")
    prefix, _, database = folder.rpartition("/")
    repository = Repository(client, f"s3://{bucket}/{prefix}")
    refs = repository.beginning_with(unquote(database), name.removesuffix(MANIFEST_SUFFIX))
    entries = [read_entry(client, ref, log) for ref in refs if ref.uri == uri]
    if not entries or entries[0] is None:
        raise InputError(f"there is no backup {uri} that can be read")
    return entries[0]


def read_entry(client: S3Client, ref: BackupRef, log: Log) -> Entry | None:
    """Read what is known of a backup; None, and a warning, if nothing can be restored from it.

    One that was pruned meanwhile, is damaged, archived or of a later format must not hide the others.

    :raises AccessDenied: there is no right to read it.
    :raises StorageError: S3 failed.
    """
    entry = _read(client, ref, log)
    return None if isinstance(entry, s3_errors.Unreadable) else entry


def _read(client: S3Client, ref: BackupRef, log: Log) -> Entry | s3_errors.Unreadable | None:
    try:
        stored = read_manifest(client, ref.uri)
    except s3_errors.AccessDenied:
        raise
    except s3_errors.Unreadable as error:
        log.warning("left out: %s", error)
        return error
    except (InputError, IntegrityError) as error:
        log.warning("left out: %s", error)
        return None
    return entry_of(ref, stored.manifest, _evidence_of(client, ref, stored, log) if ref.has_evidence else None)


def entry_of(ref: BackupRef, manifest: Manifest, evidence: Evidence | None) -> Entry:
    """Say what a manifest and its evidence tell of a backup."""
    found = evidence.verifications if evidence else []
    is_verified = evidence is not None and evidence.is_verified
    return Entry(
        ref=ref,
        backup_id=manifest.backup_id,
        database=manifest.database,
        created_at=manifest.created_at,
        duration_seconds=manifest.duration_seconds,
        labels=manifest.labels,
        stored_bytes=manifest.stored_bytes,
        new_stored_bytes=manifest.new_stored_bytes,
        raw_bytes=manifest.raw_bytes,
        tables=manifest.tables,
        rows=manifest.rows,
        left_out_by=manifest.dump.left_out_by,
        is_encrypted=manifest.encryption is not None,
        newest_verdict=_verdict(found[0]) if found else None,
        # If it is verified, the newest that tells something has proved it.
        proof=next((_verdict(one) for one in found if one.is_conclusive), None) if is_verified else None,
    )


def _verdict(found: Verification) -> Verdict:
    return Verdict(
        outcome=found.outcome, level=found.level, at=found.began_at, restore_seconds=found.restore_seconds
    )


def _evidence_of(client: S3Client, ref: BackupRef, stored: StoredManifest, log: Log) -> Evidence | None:
    try:
        evidence = read_evidence(client, ref.bucket, stored)
    except s3_errors.Unreadable as error:
        log.warning("not verified: %s", error)
        return None
    if evidence is None:
        log.warning("not verified: the evidence of %s is damaged, or speaks of another manifest", ref.uri)
    return evidence


def _refs(repository: Repository, selection: Selection) -> Iterable[BackupRef]:
    """List what may be wanted, newest first; as it is asked for, if there is a limit."""
    before = selection.before
    databases = [selection.database] if selection.database else repository.databases()
    if selection.limit is None:
        refs = sorted((ref for name in databases for ref in repository.backups(name)), reverse=True)
        return [ref for ref in refs if before is None or ref.created_at < before]
    return heapq.merge(*(repository.newest_first(name, before) for name in databases), reverse=True)


def _entries(client: S3Client, refs: Iterable[BackupRef], log: Log, batch: int) -> Generator[Entry, None, None]:
    """Read manifests and evidence, `batch` at first and then more at a time, as they are asked for.

    :raises Unreadable: S3 gives out none of them.
    """
    remaining = iter(refs)
    some_are_read, refusal = False, None
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="manifest") as pool:
        while some := list(islice(remaining, batch)):
            for entry in pool.map(lambda ref: _read(client, ref, log), some):
                if isinstance(entry, s3_errors.Unreadable):
                    refusal = entry
                elif entry is not None:
                    some_are_read = True
                    yield entry
            batch = min(max(2 * batch, _READS_AT_ONCE), _BATCH)
    if refusal is not None and not some_are_read:
        raise refusal
