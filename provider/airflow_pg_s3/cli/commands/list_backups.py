"""Lists backups, and says whether the newest are young enough."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.repository.backup_name import other_databases, parse_time
from airflow_pg_s3.core.repository.backup_table import archive_row, archive_table, backup_row, backup_table
from airflow_pg_s3.core.repository.catalog import Selection, list_archives, select
from airflow_pg_s3.core.repository.freshness import look
from airflow_pg_s3.core.repository.neighbours import holds_backups, no_backups
from airflow_pg_s3.core.repository.repository import Repository


def run(arguments: Namespace, session: Session) -> ExitCode:
    """List; the exit code is 3 if a database lacks a young backup."""
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit must be at least 1, not {arguments.limit}")
    before = parse_time(arguments.before, "--before") if arguments.before else None
    client, _ = session.connections.s3()
    repository = Repository(client, arguments.repository)
    selection = Selection(
        database=arguments.database,
        before=before,
        labels=dict(arguments.labels),
        verified_only=arguments.verified_only,
        limit=arguments.limit,
    )
    now = datetime.now(UTC)
    if arguments.pattern:
        refs = list_archives(repository, arguments.pattern, selection)
        session.out.write([archive_row(ref) for ref in refs], archive_table(refs, now) if refs else [])
        return ExitCode.DONE
    entries = select(repository, selection, session.log)
    if not entries and arguments.max_age is None and not holds_backups(repository):
        raise no_backups(repository)
    session.out.write([backup_row(entry) for entry in entries], backup_table(entries, now) if entries else [])
    if not entries:
        session.log.warning("%s", _nothing(repository, arguments.database))
    if arguments.max_age is None or _are_young(arguments, repository, session):
        return ExitCode.DONE
    return ExitCode.UNSURE


def _nothing(repository: Repository, database: str | None) -> str:
    if database is None or next(repository.newest_first(database), None) is not None:
        return f"no backup in {repository.root} is of those asked for"
    return f"there is no backup of {database!r} in {repository.root}: {other_databases(repository, database)}"


def _are_young(arguments: Namespace, repository: Repository, session: Session) -> bool:
    databases = [arguments.database] if arguments.database else repository.databases()
    found = [
        look(
            repository,
            database=database,
            max_age=arguments.max_age,
            verified_only=arguments.verified_only,
            log=session.log,
        )
        for database in databases
    ]
    for one in found:
        (session.log.info if one.is_fresh else session.log.warning)("%s", one.message)
    return bool(found) and all(one.is_fresh for one in found)
