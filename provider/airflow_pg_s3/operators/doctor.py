"""The operator that says what would fail in a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_pg_s3.core.backup.request import DEFAULT_SPOOL_LIMIT
from airflow_pg_s3.operators.base import PgS3Operator


class PgS3DoctorOperator(PgS3Operator):
    """Say what would fail in a backup, and what to do: server, rights, client programs, S3, this worker.

    It stores one object and deletes it again, and lets pg_dump read the definitions of the database.

    All arguments are templated.

    :param repository: where backups are stored, ``s3://bucket/any/prefix``, or a name in the option ``[pg_s3]
        repositories``.
    :param postgres_conn_id: Postgres connection of the server to back up.
    :param aws_conn_id: AWS connection; None for the machine's own credentials; ``aws_default`` leaves the choice
        to a named repository.
    :param database: database to back up; the connection's schema if None.
    :param jobs: as for `PgS3BackupOperator`.
    :param spool_dir: as for `PgS3BackupOperator`.
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
        "spool_limit",
        "s3_extra_args",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"s3_extra_args": "json"}
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
        spool_limit: int | str = DEFAULT_SPOOL_LIMIT,
        s3_extra_args: Mapping[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(aws_conn_id=aws_conn_id, s3_extra_args=s3_extra_args, **kwargs)
        self.repository = repository
        self.postgres_conn_id = postgres_conn_id
        self.database = database
        self.jobs = jobs
        self.spool_dir = spool_dir
        self.spool_limit = spool_limit

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Examine, log what was found, and fail if a backup would fail."""
        hook = self._hook(context, self.repository)
        facts = hook.examine(
            self.postgres_conn_id,
            self.database,
            jobs=self.jobs,
            spool_dir=self.spool_dir,
            spool_limit=self.spool_limit,
        )
        return self._report(context, facts, hook)
