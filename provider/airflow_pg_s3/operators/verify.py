"""The operator that verifies a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_pg_s3 import arguments
from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.repository.verification_record import Level
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.verify.verify import verify
from airflow_pg_s3.hooks import connections
from airflow_pg_s3.operators.base import PgS3Operator
from airflow_pg_s3.task_errors import logged
from airflow_pg_s3.telemetry.console_link import BACKUP_LINKS, console_url
from airflow_pg_s3.telemetry.metrics import measure


class PgS3VerifyOperator(PgS3Operator):
    """Prove that a backup restores: restore it into a scratch database, compare everything, record the outcome.

    The task succeeds if and only if the backup is verified. It fails without a retry if something differs or is
    damaged, and with retries if the verification could not be completed (no server, no S3, no disk).

    :param backup: URI of the backup's manifest, as `PgS3BackupOperator` and `PgS3ListBackupsOperator` return it,
        or ``s3://bucket/prefix/<database>/<name>`` with a name as for `PgS3RestoreOperator` (templated).
    :param postgres_conn_id: Postgres connection of a server to restore into, in a scratch database that is dropped
        again; None for a throwaway PostgreSQL server on the worker (templated).
    :param aws_conn_id: AWS connection; None for the machine's own credentials (templated).
    :param jobs: number of tables restored and compared, or of objects read, at the same time (templated).
    :param level: ``restore`` restores and compares; ``checksum`` reads and decodes every object, without
        PostgreSQL (templated).
    :param checks: queries on the restored database, each of which must return a single value, true (templated).
    :param pre_restore_sql: a command, or a list of commands, run in the scratch database before the restore, as in
        `PgS3RestoreOperator` (templated).
    :param age_identity_conn_id: connection whose password holds the age identity of an encrypted backup
        (templated).
    :param locate_differences: find the first differing row of each table that differs, by a second pass.
    :param spool_dir: folder for the throwaway server's data and for small members; the system's temporary folder
        if None (templated).
    :param s3_extra_args: further arguments of S3 requests, such as ``{"ServerSideEncryption": "aws:kms"}``; each
        request gets those that it accepts.
    :returns: ``outcome`` (``verified``), ``uri``, ``backup_id``, ``database``, ``level``, ``tables``, ``rows``,
        ``duration_seconds``, ``restore_seconds`` (the time that a recovery takes), ``compare_seconds``,
        ``evidence`` (URI of the record; None if S3 refused it), ``warnings``; the same dict is the extra of the
        asset events of its outlets.
    :raises AirflowFailException: the backup failed verification, or the request cannot work; a retry would not
        help.
    :raises AirflowException: the verification could not be completed.
    """

    template_fields: Sequence[str] = (
        "backup",
        "postgres_conn_id",
        "aws_conn_id",
        "jobs",
        "level",
        "checks",
        "pre_restore_sql",
        "age_identity_conn_id",
        "spool_dir",
    )
    ui_color = "#fff7bc"
    operator_extra_links = BACKUP_LINKS

    def __init__(
        self,
        *,
        backup: str,
        postgres_conn_id: str | None = None,
        aws_conn_id: str | None = "aws_default",
        jobs: int | str = 2,
        level: str = "restore",
        checks: Sequence[str] | str = (),
        pre_restore_sql: Sequence[str] | str | None = None,
        age_identity_conn_id: str | None = None,
        locate_differences: bool = False,
        spool_dir: str | None = None,
        s3_extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.backup = backup
        self.postgres_conn_id = postgres_conn_id
        self.aws_conn_id = aws_conn_id
        self.jobs = jobs
        self.level = level
        self.checks = checks
        self.pre_restore_sql = pre_restore_sql
        self.age_identity_conn_id = age_identity_conn_id
        self.locate_differences = locate_differences
        self.spool_dir = spool_dir
        self.s3_extra_args = s3_extra_args

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Verify, and return the facts about the verification."""
        with self._final_errors() as log:
            client, extra_args = connections.s3_client(self.aws_conn_id, self.s3_extra_args)
            request = VerifyRequest(
                backup=resolve(client, self.backup, self.log),
                # The connection's own database is not used: a scratch database is created on its server.
                server=connections.postgres_parameters(self.postgres_conn_id, None)
                if self.postgres_conn_id
                else None,
                level=cast("Level", self.level),
                jobs=arguments.as_int(self.jobs, "jobs"),
                checks=arguments.as_list(self.checks, "checks"),
                pre_restore_sql=arguments.as_commands(self.pre_restore_sql, "pre_restore_sql"),
                locate_differences=self.locate_differences,
                identities=connections.age_identities(self.age_identity_conn_id),
                spool_dir=self.spool_dir or None,
                client_path=connections.client_path(),
                s3_extra_args=extra_args,
                producer=connections.producer(context),
            )
            self.console_url = console_url(client, request.backup)
            try:
                result = verify(request, client, cancel=self._cancel, log=log)
            except IntegrityError as error:
                failure = AirflowFailException(f"{request.backup} FAILED verification: {error}")
                raise logged(failure, self.log) from None
        if result.verification.outcome == "failed":
            raise logged(AirflowFailException(self._named(result.sentence)), self.log)
        if result.verification.outcome == "could not verify":
            kind = AirflowException if result.retry_may_help else AirflowFailException
            raise logged(kind(self._named(result.sentence)), self.log)
        facts = result.facts(request.backup)
        measure("verification", facts)
        return self._report(context, facts)
