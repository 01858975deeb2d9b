"""Deletes the backups that no rule keeps."""

from __future__ import annotations

from argparse import Namespace

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.retention.facts import facts_of
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import PruneRequest, prune

_RULES = ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "timezone")


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Prune."""
    retention = RetentionPolicy(**{rule: getattr(arguments, rule) for rule in _RULES})
    client, extra_args = session.connections.s3()
    request = PruneRequest(
        retention=retention,
        database=arguments.database,
        orphan_age=arguments.orphan_age,
        dry_run=arguments.dry_run,
        s3_extra_args=extra_args,
    )
    repository = Repository(client, arguments.repository)
    done = prune(request, repository, cancel=session.cancel, log=session.log)
    session.out.write({"dry_run": arguments.dry_run} | facts_of(repository, done), [])
    return ExitCode.DONE
