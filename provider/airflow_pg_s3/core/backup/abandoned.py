"""What earlier backups left when they were killed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg

from airflow_pg_s3.core.backup.advisory_lock import is_alive
from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.backup_id import time_of
from airflow_pg_s3.core.repository.repository import Begun, Repository

if TYPE_CHECKING:
    from airflow_pg_s3.core.backup.request import BackupRequest
    from airflow_pg_s3.core.postgres.server import ServerFacts

_Connection = psycopg.Connection[tuple[Any, ...]]


def remove_all_but_one(
    repository: Repository, request: BackupRequest, connection: _Connection, facts: ServerFacts, log: Log
) -> Begun | None:
    """Remove what killed backups left behind, unless this server shows that they may still be running.

    :returns: of those that may serve this backup, the one that has stored most; it is to be removed after the
        commit. If more were kept, backups that are killed again and again would take more and more space.
    :raises StorageError: S3 failed.
    """
    killed = list(_killed(repository, request, connection, facts))
    useful = [begun for begun in killed if _is_useful(begun, request, facts.now)]
    kept = max(useful, key=lambda begun: _stored_bytes(repository, begun), default=None)
    for begun in killed:
        if begun is not kept:
            remove_abandoned(repository, begun, log)
    return kept


def remove_abandoned(repository: Repository, begun: Begun, log: Log) -> None:
    """Remove what a killed backup left behind; it stays with a warning if S3 does not let it go."""
    database, backup_id = begun.database, begun.backup_id
    try:
        # Asked after the lock: whoever held it may have committed just now.
        if repository.is_committed(database, backup_id):
            return
        count = repository.remove_data(database, backup_id)
        if repository.is_committed(database, backup_id):
            # Its manifest was on the way when it was killed, and would claim what is not there any more.
            repository.retract(database, backup_id)
    except StorageError as error:
        # Perhaps it may not delete: that must not stop backups.
        log.warning("backup %s was killed, and %s; prune will", backup_id, error)
    else:
        log.info("removed %d objects of backup %s, which was killed", count, backup_id)


def _killed(
    repository: Repository, request: BackupRequest, connection: _Connection, facts: ServerFacts
) -> Iterator[Begun]:
    pg_dump = request.source.application_name("pg_dump")
    for begun in repository.abandoned(request.source.database):
        if begun.instance == facts.instance and not is_alive(connection, begun.backup_id, pg_dump):
            yield begun


def _is_useful(begun: Begun, request: BackupRequest, now: datetime) -> bool:
    """True if a backup may be made of what this one has stored."""
    began_at = time_of(begun.backup_id)
    is_recent = began_at is not None and began_at + request.full_every > now
    return not request.full and is_recent and sorted(begun.recipients) == sorted(request.age_recipients)


def _stored_bytes(repository: Repository, begun: Begun) -> int:
    return sum(repository.sizes([f"{repository.base(begun.database)}{begun.backup_id}/"]).values())
