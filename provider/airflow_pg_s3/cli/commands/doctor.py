"""Says what would fail in a backup."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.doctor.doctor import DoctorRequest, examine
from airflow_pg_s3.core.doctor.findings import Finding, failures, lines
from airflow_pg_s3.core.repository.repository import Repository


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Examine; the exit code is 1 if a backup would fail."""
    source, _ = session.connections.postgres(arguments.postgres)
    client, extra_args = session.connections.s3()
    request = DoctorRequest(
        source=source,
        jobs=arguments.jobs,
        spool_dir=arguments.spool_dir,
        spool_limit=arguments.spool_limit,
        client_path=session.connections.client_path,
        s3_extra_args=extra_args,
    )
    examined = examine(request, Repository(client, arguments.repository), cancel=session.cancel)
    findings = [
        replace(one, found=session.wording(one.found), advice=session.wording(one.advice)) for one in examined
    ]
    is_ok = not failures(findings)
    facts = {"ok": is_ok, "findings": [finding.facts for finding in findings]}
    session.out.write(facts, _lines(findings))
    return ExitCode.DONE if is_ok else ExitCode.FAILED


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    yield from lines(findings)
    number = len(failures(findings))
    yield ""
    yield f"{number} of these would make a backup fail" if number else "a backup has all that it needs"
