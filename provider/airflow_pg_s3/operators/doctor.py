"""The operator that says what would fail in a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3 import arguments
from airflow_pg_s3.core.backup.request import DEFAULT_SPOOL_LIMIT
from airflow_pg_s3.core.doctor.doctor import DoctorRequest, examine
from airflow_pg_s3.core.doctor.findings import failures, lines
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.hooks import connections
from airflow_pg_s3.operators.base import PgS3Operator
from airflow_pg_s3.task_errors import logged


class PgS3DoctorOperator(PgS3Operator):
    """Say what would fail in a backup, and what to do: server, rights, client programs, S3, this worker.

    It stores one object and deletes it again, and lets pg_dump read the definitions of the database.

    :param repository: where backups are stored, ``s3://bucket/any/prefix`` (templated).
    :param postgres_conn_id: Postgres connection of the server to back up (templated).
    :param aws_conn_id: AWS connection; None for the machine's own credentials (templated).
    :param database: database to back up; the connection's schema if None (templated).
    :param jobs: as for `PgS3BackupOperator` (templated).
    :param spool_dir: as for `PgS3BackupOperator` (templated).
    :param spool_limit: as for `PgS3BackupOperator`.
    :param s3_extra_args: as for `PgS3BackupOperator`.
    :returns: ``ok`` and ``findings``, a list of dicts with ``check``, ``status`` (``ok`` or ``warning``),
        ``found`` and ``advice``.
    :raises AirflowFailException: a backup would fail; the log says why.
    """

    template_fields: Sequence[str] = (
        "repository",
        "postgres_conn_id",
        "aws_conn_id",
        "database",
        "jobs",
        "spool_dir",
    )
    ui_color = "#f7f4f9"

    def __init__(
        self,
        *,
        repository: str,
        postgres_conn_id: str = "postgres_default",
        aws_conn_id: str | None = "aws_default",
        database: str | None = None,
        jobs: int | str = 2,
        spool_dir: str | None = None,
        spool_limit: int = DEFAULT_SPOOL_LIMIT,
        s3_extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.repository = repository
        self.postgres_conn_id = postgres_conn_id
        self.aws_conn_id = aws_conn_id
        self.database = database
        self.jobs = jobs
        self.spool_dir = spool_dir
        self.spool_limit = spool_limit
        self.s3_extra_args = s3_extra_args

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Examine, log what was found, and fail if a backup would fail."""
        with self._final_errors():
            database = arguments.as_database(self.database, otherwise="the connection's own")
            client, extra_args = connections.s3_client(self.aws_conn_id, self.s3_extra_args)
            request = DoctorRequest(
                source=connections.postgres_parameters(self.postgres_conn_id, database),
                jobs=arguments.as_int(self.jobs, "jobs"),
                spool_dir=self.spool_dir or None,
                spool_limit=self.spool_limit,
                client_path=connections.client_path(),
                s3_extra_args=extra_args,
            )
            examined = examine(request, Repository(client, self.repository), cancel=self._cancel)
        findings = [replace(one, found=self._named(one.found), advice=self._named(one.advice)) for one in examined]
        for line in lines(findings):
            self.log.info("%s", line)
        failed = failures(findings)
        if failed:
            what = ", ".join(finding.check for finding in failed)
            raise logged(AirflowFailException(f"a backup would fail; see FAILURE above: {what}"), self.log)
        return self._report(context, {"ok": True, "findings": [finding.facts for finding in findings]})
