"""What the page shows, as it is stored: repositories, databases, backups, one backup."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.config import Config

from airflow_pg_s3.core.documents import document
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.repository import freshness
from airflow_pg_s3.core.repository.backup_table import table_sizes
from airflow_pg_s3.core.repository.catalog import Entry, Selection, Verdict, entry_of, select
from airflow_pg_s3.core.repository.listing import BackupRef
from airflow_pg_s3.core.repository.repository import (
    Repository,
    read_manifest,
    read_manifest_bytes,
    read_members,
)
from airflow_pg_s3.core.repository.verification_record import Verification, read_evidence
from airflow_pg_s3.core.retention.decisions import HOLD
from airflow_pg_s3.hooks.connections import s3_client
from airflow_pg_s3.hooks.repositories import NamedRepository, named_repositories
from airflow_pg_s3.plugin import recovery

PAGE = 50
"""Backups in one part of the list."""
POINTS = 365
"""Backups in the plots."""
TABLES = 500
"""Tables shown of one backup, the largest."""
DIFFERENCES = 20
"""Differences shown of one verification."""

# A page that is looked at now: better an error than minutes of retries.
_IMPATIENT = Config(
    connect_timeout=4,
    read_timeout=8,
    retries={"mode": "standard", "total_max_attempts": 2},
    max_pool_connections=20,
)
_DATABASES_AT_ONCE = 8


class NotFound(InputError):
    """There is no such repository or backup."""


@dataclass(frozen=True, kw_only=True)
class RepositorySummary:
    """A named repository, without what is in it.

    :param max_age_seconds: how old the newest backups may be; None if there is no rule.
    """

    name: str
    uri: str
    aws_conn_id: str | None
    max_age_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A backup in a list.

    :param proof: the verification that has restored and compared it; None if it is not verified.
    :param verdict: the newest verification, whatever it has found.
    :param hold: the reason why no prune deletes it; None if prunes may.
    """

    backup_id: str
    database: str
    uri: str
    created_at: datetime
    duration_seconds: float
    stored_bytes: int
    new_stored_bytes: int
    raw_bytes: int
    tables: int
    rows: int
    labels: dict[str, str]
    hold: str | None
    left_out_by: list[str]
    proof: Verdict | None
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database of a repository.

    :param newest: its newest backup; None if there is none that is complete.
    :param newest_verified: its newest verified backup; None if there is none among the newest 1000.
    :param is_fresh: whether the newest is as young as the repository's rule wants it; None if there is no rule.
    """

    name: str
    newest: Backup | None
    newest_verified: Backup | None
    is_fresh: bool | None


@dataclass(frozen=True, kw_only=True)
class Databases:
    """The databases of a repository, by name.

    :param warnings: one sentence for each backup that could not be read.
    """

    databases: list[Database]
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class Backups:
    """A part of the list of backups, newest first.

    :param before: what to ask for next; None at the end.
    :param warnings: one sentence for each backup that could not be read.
    """

    backups: list[Backup]
    before: datetime | None
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class BackupDetails:
    """One backup.

    :param manifest: all of it but its lists of objects.
    :param verifications: the newest first, without the results of each table, and with some of many differences.
    :param tables: the largest, `TABLES` at most.
    :param all_tables: how many there are.
    :param commands: what restores it without Airflow.
    :param document: path of the document that explains them, on the API server's machine.
    """

    backup: Backup
    manifest: dict[str, Any]
    verifications: list[dict[str, Any]]
    tables: list[dict[str, Any]]
    all_tables: int
    commands: list[recovery.Commands]
    document: str


def repositories() -> list[RepositorySummary]:
    """List the named repositories.

    :raises InputError: the option ``[pg_s3] repositories`` is wrong.
    """
    return [
        RepositorySummary(
            name=named.name,
            uri=named.uri,
            aws_conn_id=named.aws_conn_id,
            max_age_seconds=None if named.max_age is None else named.max_age.total_seconds(),
        )
        for named in named_repositories()
    ]


def databases(repository: str) -> Databases:
    """Look at the newest backup, and the newest verified one, of each database.

    :raises NotFound: no repository has this name.
    :raises InputError: there is no such connection or bucket, or no right to use it.
    :raises StorageError: S3 failed.
    """
    with _opened(repository) as (named, opened, log):

        def look(name: str) -> Database:
            found = freshness.search(opened, name, verified_only=True, log=log)
            return Database(
                name=name,
                newest=_backup(found.newest) if found.newest else None,
                newest_verified=_backup(found.counting) if found.counting else None,
                is_fresh=_is_fresh(found.newest, named),
            )

        with ThreadPoolExecutor(_DATABASES_AT_ONCE, thread_name_prefix="database") as pool:
            found = list(pool.map(look, opened.databases()))
        return Databases(databases=found, warnings=log.warnings)


def backups(repository: str, database: str, before: datetime | None, limit: int = PAGE) -> Backups:
    """List backups of a database, newest first.

    :param before: only those made before this time.
    :raises NotFound: no repository has this name.
    :raises InputError: there is no such connection or bucket, or no right to use it.
    :raises StorageError: S3 failed.
    """
    with _opened(repository) as (_, opened, log):
        # One more tells whether there are more.
        entries = select(opened, Selection(database=database, before=before, limit=limit + 1), log)
        found = [_backup(entry) for entry in entries[:limit]]
        return Backups(
            backups=found,
            before=found[-1].created_at if len(entries) > limit else None,
            warnings=log.warnings,
        )


def backup(repository: str, database: str, backup_id: str) -> BackupDetails:
    """Read all about one backup.

    :raises NotFound: there is no such repository or backup.
    :raises InputError: there is no such connection, no right to use it, or S3 does not give the backup out.
    :raises IntegrityError: the backup is damaged.
    :raises StorageError: S3 failed.
    """
    with _opened(repository) as (_, opened, _):
        ref = _find(opened, database, backup_id)
        stored = read_manifest(opened.client, ref.uri)
        evidence = read_evidence(opened.client, opened.bucket, stored)
        tables = table_sizes(backup_id, read_members(opened.client, opened.bucket, stored))
        return BackupDetails(
            backup=_backup(entry_of(ref, stored.manifest, evidence)),
            manifest=stored.manifest.model_dump(mode="json", by_alias=True, exclude={"members", "packs", "runs"}),
            verifications=[_verification(one) for one in (evidence.verifications if evidence else [])],
            tables=[size._asdict() for size in tables[:TABLES]],
            all_tables=len(tables),
            commands=recovery.commands(
                ref.uri, stored.manifest, endpoint_url=opened.client.meta.endpoint_url, tables=tables
            ),
            document=document("recovery.md"),
        )


def manifest(repository: str, database: str, backup_id: str) -> bytes:
    """Return a backup's manifest as it is stored, damaged or not; raises what `backup` does."""
    with _opened(repository) as (_, opened, _):
        return read_manifest_bytes(opened.client, _find(opened, database, backup_id).uri)


class _Warnings:
    """A log whose warnings the page shows."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._log = logging.getLogger(__name__)

    def info(self, message: str, /, *args: Any) -> None:
        self._log.info(message, *args)

    def warning(self, message: str, /, *args: Any) -> None:
        self._log.warning(message, *args)
        self.warnings.append(message % args)


@contextmanager
def _opened(name: str) -> Iterator[tuple[NamedRepository, Repository, _Warnings]]:
    named = next((one for one in named_repositories() if one.name == name), None)
    if named is None:
        raise NotFound(f"the option [pg_s3] repositories names no repository {name!r}")
    client, _ = s3_client(named.aws_conn_id, config=_IMPATIENT)
    try:
        yield named, Repository(client, named.uri), _Warnings()
    finally:
        client.close()


def _find(opened: Repository, database: str, backup_id: str) -> BackupRef:
    for ref in opened.beginning_with(database, backup_id):
        if ref.backup_id == backup_id:
            return ref
    raise NotFound(f"there is no backup {backup_id} of {database!r} any more: it may have been deleted")


def _backup(entry: Entry) -> Backup:
    return Backup(
        backup_id=entry.backup_id,
        database=entry.database,
        uri=entry.ref.uri,
        created_at=entry.created_at,
        duration_seconds=entry.duration_seconds,
        stored_bytes=entry.stored_bytes,
        new_stored_bytes=entry.new_stored_bytes,
        raw_bytes=entry.raw_bytes,
        tables=entry.tables,
        rows=entry.rows,
        labels=dict(entry.labels),
        hold=entry.labels.get(HOLD),
        left_out_by=list(entry.left_out_by),
        proof=entry.proof,
        verdict=entry.newest_verdict,
    )


def _verification(found: Verification) -> dict[str, Any]:
    facts = found.model_dump(mode="json", exclude={"tables"})
    return facts | {"differences": facts["differences"][:DIFFERENCES], "all_differences": len(found.differences)}


def _is_fresh(newest: Entry | None, named: NamedRepository) -> bool | None:
    if named.max_age is None:
        return None
    return newest is not None and newest.is_within(named.max_age, datetime.now(UTC))
