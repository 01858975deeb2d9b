"""The operator that backs up a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from airflow_pg_s3.core.backup.request import (
    DEFAULT_COMPRESSION_LEVEL,
    DEFAULT_FULL_EVERY,
    DEFAULT_SPOOL_LIMIT,
)
from airflow_pg_s3.hooks.options import BackupOptions
from airflow_pg_s3.operators.base import PgS3Operator
from airflow_pg_s3.telemetry.links import BACKUP_LINKS


class PgS3BackupOperator(PgS3Operator):
    """Back up one PostgreSQL database to S3: in parallel, streaming, completely or not at all.

    All arguments but durations are templated.

    :param repository: where backups are stored, ``s3://bucket/any/prefix``, or its name in the option
        ``[pg_s3] repositories``.
    :param postgres_conn_id: Postgres connection of the source.
    :param aws_conn_id: AWS connection; None for the machine's own credentials; ``aws_default`` leaves the choice
        to a named repository.
    :param database: database to back up; the connection's schema if None.
    :param jobs: number of tables dumped at the same time; the task uses two more database connections.
    :param compression_level: zstd level, 1 (fast) to 19 (small).
    :param pg_dump_options: further options for pg_dump, one per list item.
    :param s3_extra_args: further arguments of S3 requests, such as ``{"ServerSideEncryption": "aws:kms"}``; each
        request gets those that it accepts.
    :param age_recipients: age recipients to encrypt for; needs the extra ``[encryption]``.
    :param labels: labels to find the backup by, such as ``{"release": "42"}``.
    :param include_globals: also back up the server's roles, memberships, settings of roles and tablespaces,
        without passwords; does not need a superuser.
    :param full: store everything anew, also what earlier backups of the database have stored.
    :param full_every: store everything anew when the oldest data that would be referred to is older than this: an
        object that rots on the store harms no more than the backups of that period.
    :param spool_dir: folder on a local disk for the spool; the system's temporary folder if None.
    :param spool_limit: bytes of disk that the spool may take.
    :returns: ``uri`` (of the manifest), ``key``, ``backup_id``, ``database``, ``created_at`` (ISO 8601, by the
        source server's clock), ``raw_bytes``, ``stored_bytes`` (of all that the backup consists of),
        ``new_stored_bytes`` (the part that this backup has stored itself), ``chunks``, ``new_chunks``, ``tables``,
        ``rows``, ``left_out_by`` (those of `pg_dump_options` that left something out, such as
        ``--exclude-table-data``), ``duration_seconds``; the same dict is the extra of the asset events of its
        outlets.
    :raises AirflowFailException: the request cannot work; nothing was touched, and a retry would not help.
    """

    template_fields: Sequence[str] = (
        "repository",
        "postgres_conn_id",
        "aws_conn_id",
        "database",
        "jobs",
        "compression_level",
        "pg_dump_options",
        "s3_extra_args",
        "age_recipients",
        "labels",
        "include_globals",
        "full",
        "spool_dir",
        "spool_limit",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "pg_dump_options": "json",
        "s3_extra_args": "json",
        "age_recipients": "json",
        "labels": "json",
    }
    ui_color = "#e0ecf4"
    operator_extra_links = BACKUP_LINKS

    def __init__(
        self,
        *,
        repository: str,
        postgres_conn_id: str = "postgres_default",
        aws_conn_id: str | None = "aws_default",
        database: str | None = None,
        jobs: int | str = 2,
        compression_level: int | str = DEFAULT_COMPRESSION_LEVEL,
        pg_dump_options: Sequence[str] | str = (),
        s3_extra_args: Mapping[str, Any] | str | None = None,
        age_recipients: Sequence[str] | str = (),
        labels: Mapping[str, str] | str | None = None,
        include_globals: bool | str = False,
        full: bool | str = False,
        full_every: timedelta = DEFAULT_FULL_EVERY,
        spool_dir: str | None = None,
        spool_limit: int | str = DEFAULT_SPOOL_LIMIT,
        **kwargs: Any,
    ) -> None:
        super().__init__(aws_conn_id=aws_conn_id, s3_extra_args=s3_extra_args, **kwargs)
        self.repository = repository
        self.postgres_conn_id = postgres_conn_id
        self.database = database
        self.jobs = jobs
        self.compression_level = compression_level
        self.pg_dump_options = pg_dump_options
        self.age_recipients = age_recipients
        self.labels = labels
        self.include_globals = include_globals
        self.full = full
        self.full_every = full_every
        self.spool_dir = spool_dir
        self.spool_limit = spool_limit

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Back up, and return the facts about the backup."""
        hook = self._hook(context, self.repository)
        facts = hook.back_up(self.postgres_conn_id, self.database, **self._given(BackupOptions.__annotations__))
        return self._report(context, facts, hook)
