"""Proves that a backup restores."""

from __future__ import annotations

from argparse import Namespace

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.verify.verify import verify

_CODES = {"verified": ExitCode.DONE, "failed": ExitCode.FAILED, "could not verify": ExitCode.UNSURE}


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Verify; the exit code says what came of it."""
    client, extra_args = session.connections.s3()
    request = VerifyRequest(
        backup=resolve(client, arguments.backup, session.log),
        server=session.connections.postgres(arguments.server)[0] if arguments.server else None,
        level=arguments.level,
        jobs=arguments.jobs,
        checks=arguments.checks,
        pre_restore_sql=arguments.pre_restore_sql,
        locate_differences=arguments.locate_differences,
        identities=session.connections.identities(),
        spool_dir=arguments.spool_dir,
        client_path=session.connections.client_path,
        s3_extra_args=extra_args,
    )
    result = verify(request, client, cancel=session.cancel, log=session.log)
    found = result.verification
    differences = [difference.model_dump() for difference in found.differences]
    session.out.write(result.facts(request.backup) | {"reason": found.reason, "differences": differences}, [])
    if found.outcome != "verified":
        session.log.error(result.sentence)
    return _CODES[found.outcome]
