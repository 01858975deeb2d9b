"""Backs a database up."""

from __future__ import annotations

from argparse import Namespace

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.backup.backup import back_up
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.repository.repository import Repository


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Make a backup, and write its URI."""
    source, _ = session.connections.postgres(arguments.postgres)
    client, extra_args = session.connections.s3()
    request = BackupRequest(
        source=source,
        jobs=arguments.jobs,
        compression_level=arguments.compression_level,
        pg_dump_options=arguments.pg_dump_options,
        s3_extra_args=extra_args,
        age_recipients=arguments.age_recipients,
        labels=dict(arguments.labels),
        include_globals=arguments.include_globals,
        full=arguments.full,
        full_every=arguments.full_every,
        spool_dir=arguments.spool_dir,
        spool_limit=arguments.spool_limit,
        client_path=session.connections.client_path,
    )
    repository = Repository(client, arguments.repository)
    result = back_up(request, repository, cancel=session.cancel, log=session.log)
    session.out.write(result.facts, [result.uri])
    return ExitCode.DONE
