"""Copies a backup into another repository."""

from __future__ import annotations

from argparse import Namespace

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.copy.copy import CopyRequest, copy
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.repository.repository import Repository


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Copy a backup, and write the URI of the copy."""
    client, _ = session.connections.s3()
    other, extra_args = session.connections.s3_of_copy()
    request = CopyRequest(backup=resolve(client, arguments.backup, session.log), s3_extra_args=extra_args)
    result = copy(request, client, Repository(other, arguments.repository), cancel=session.cancel, log=session.log)
    session.out.write(result.facts, [result.uri])
    return ExitCode.DONE
