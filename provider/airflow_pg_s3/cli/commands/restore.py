"""Restores a backup."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.repository.thaw import ask_for
from airflow_pg_s3.core.restore.request import RestoreRequest, Selection
from airflow_pg_s3.core.restore.restore import restore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_THAW_SECONDS = 300.0
_AS_THEY_ARE = (
    "if_exists", "keep_previous", "jobs", "single_transaction", "create_database", "pg_restore_options",
    "no_owner", "no_privileges", "restore_globals", "allow_partial", "managed_service", "pre_restore_sql",
    "pre_data_sql", "post_restore_sql", "spool_dir", "allow_unsafe_psql",
)  # fmt: skip


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Restore."""
    target, is_target_named = session.connections.postgres(arguments.postgres)
    client, _ = session.connections.s3()
    request = RestoreRequest(
        backup=resolve(client, arguments.backup, session.log),
        target=target,
        is_target_named=is_target_named,
        wanted=Selection(
            tables=arguments.tables,
            schemas=arguments.schemas,
            exclude_tables=arguments.exclude_tables,
            schema_only=arguments.schema_only,
            data_only=arguments.data_only,
        ),
        client_path=session.connections.client_path,
        identities=session.connections.identities(),
        **{name: getattr(arguments, name) for name in _AS_THEY_ARE},
    )
    if arguments.thaw:
        _wait_for_thaw(client, request.backup, arguments, session)
    result = restore(request, client, cancel=session.cancel, log=session.log)
    session.out.write(result.facts, [])
    return ExitCode.DONE


def _wait_for_thaw(client: S3Client, backup: str, arguments: Namespace, session: Session) -> None:
    tier, days = arguments.thaw, arguments.thaw_days
    while ask_for(client, backup, tier=tier, days=days, cancel=session.cancel, log=session.log):
        if session.cancel.wait(_THAW_SECONDS):
            raise Cancelled("stopped while waiting for S3 to give out what is archived")
