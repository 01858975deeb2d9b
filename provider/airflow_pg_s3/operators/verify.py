"""The operator that verifies a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_pg_s3.hooks.options import VerifyOptions
from airflow_pg_s3.operators.base import PgS3Operator
from airflow_pg_s3.telemetry.links import BACKUP_LINKS


class PgS3VerifyOperator(PgS3Operator):
    """Prove that a backup restores: restore it into a scratch database, compare everything, record the outcome.

    The task succeeds if and only if the backup is verified. It fails without a retry if something differs or is
    damaged, and with retries if the verification could not be completed (no server, no S3, no disk).

    All arguments are templated; SQL that ends in ``.sql`` is the name of a file that holds it.

    :param backup: URI of the backup's manifest, as `PgS3BackupOperator` and `PgS3ListBackupsOperator` return it,
        or ``s3://bucket/prefix/<database>/<name>`` with a name as for `PgS3RestoreOperator`; give either this, or
        `repository` and `database`.
    :param repository: verify the latest backup in this one: ``s3://bucket/any/prefix``, or a name in the option
        ``[pg_s3] repositories``.
    :param database: with `repository`: the database that was backed up.
    :param verified_only: with `repository`: take the latest backup that was verified before, to see whether it
        still is.
    :param postgres_conn_id: Postgres connection of a server to restore into, in a scratch database that is dropped
        again; None for a throwaway PostgreSQL server on the worker.
    :param aws_conn_id: AWS connection; None for the machine's own credentials.
    :param jobs: number of tables restored and compared, or of objects read, at the same time.
    :param level: ``restore`` restores and compares; ``checksum`` reads and decodes every object, without
        PostgreSQL.
    :param checks: queries on the restored database, each of which must return a single value, true.
    :param pre_restore_sql: a command, or a list of commands, run in the scratch database before the restore, as in
        `PgS3RestoreOperator`.
    :param age_identity_conn_id: connection whose password holds the age identity of an encrypted backup.
    :param locate_differences: find the first differing row of each table that differs, by a second pass.
    :param spool_dir: folder for the throwaway server's data and for small members; the system's temporary folder
        if None.
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
        "repository",
        "database",
        "verified_only",
        "postgres_conn_id",
        "aws_conn_id",
        "jobs",
        "level",
        "checks",
        "pre_restore_sql",
        "age_identity_conn_id",
        "locate_differences",
        "spool_dir",
        "s3_extra_args",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "checks": "sql",
        "pre_restore_sql": "sql",
        "s3_extra_args": "json",
    }
    ui_color = "#fff7bc"
    operator_extra_links = BACKUP_LINKS

    def __init__(
        self,
        *,
        backup: str | None = None,
        repository: str | None = None,
        database: str | None = None,
        verified_only: bool | str = False,
        postgres_conn_id: str | None = None,
        aws_conn_id: str | None = "aws_default",
        jobs: int | str = 2,
        level: str = "restore",
        checks: Sequence[str] | str = (),
        pre_restore_sql: Sequence[str] | str | None = None,
        age_identity_conn_id: str | None = None,
        locate_differences: bool | str = False,
        spool_dir: str | None = None,
        s3_extra_args: Mapping[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(aws_conn_id=aws_conn_id, s3_extra_args=s3_extra_args, **kwargs)
        self.backup = backup
        self.repository = repository
        self.database = database
        self.verified_only = verified_only
        self.postgres_conn_id = postgres_conn_id
        self.jobs = jobs
        self.level = level
        self.checks = checks
        self.pre_restore_sql = pre_restore_sql
        self.age_identity_conn_id = age_identity_conn_id
        self.locate_differences = locate_differences
        self.spool_dir = spool_dir

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Verify, and return the facts about the verification."""
        hook = self._hook(context, self._repository_of_latest(self.backup, self.repository))
        facts = hook.verify(
            self.backup or None,
            self.postgres_conn_id,
            database=self.database,
            verified_only=self.verified_only,
            **self._given(VerifyOptions.__annotations__),
        )
        return self._report(context, facts, hook)
