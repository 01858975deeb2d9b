"""What earlier backups left when they were killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from airflow_pg_s3.core.backup.advisory_lock import is_alive
from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.repository import Repository

if TYPE_CHECKING:
    from airflow_pg_s3.core.postgres.server import ServerFacts


def remove_abandoned(
    repository: Repository,
    source: ConnectionParameters,
    connection: psycopg.Connection[tuple[Any, ...]],
    facts: ServerFacts,
    log: Log,
) -> None:
    """Remove what killed backups left behind, unless this server shows that they may still be running."""
    database = source.database
    pg_dump = source.application_name("pg_dump")
    for begun in repository.abandoned(database):
        if begun.instance != facts.instance or is_alive(connection, begun.backup_id, pg_dump):
            continue
        # Asked after the lock: whoever held it may have committed just now.
        if not repository.is_committed(database, begun.backup_id):
            try:
                count = repository.remove_data(database, begun.backup_id)
                if repository.is_committed(database, begun.backup_id):
                    # Its manifest was on the way when it was killed, and would claim what is not there any more.
                    repository.retract(database, begun.backup_id)
            except StorageError as error:
                # Perhaps it may not delete: that must not stop backups.
                log.warning("backup %s was killed, and %s; prune will", begun.backup_id, error)
            else:
                log.info("removed %d objects of backup %s, which was killed", count, begun.backup_id)
