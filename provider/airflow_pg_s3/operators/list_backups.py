"""The operator that lists backups, so that a downstream task can take the latest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_pg_s3 import arguments
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.repository.backup_name import parse_time
from airflow_pg_s3.core.repository.backup_table import archive_row, archive_table, backup_row, backup_table
from airflow_pg_s3.core.repository.catalog import Selection, select
from airflow_pg_s3.core.repository.listing import BackupRef
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.hooks.repositories import open_repository
from airflow_pg_s3.operators.base import PgS3Operator


class PgS3ListBackupsOperator(PgS3Operator):
    """List the complete backups in a repository, newest first; incomplete ones are never listed.

    :param repository: ``s3://bucket/any/prefix``, or a name in the option ``[pg_s3] repositories`` (templated).
    :param aws_conn_id: AWS connection; None for the machine's own credentials; ``aws_default`` leaves the choice
        to a named repository (templated).
    :param database: list only this database's backups; None lists those of every database, and an empty name is an
        error (templated).
    :param pattern: list archives of other tools instead, by a glob pattern of their keys below the prefix, such as
        ``*.tar.gz``; their database is unknown (templated).
    :param before: list only backups made before this time: a `datetime`, or ISO 8601 text, in UTC unless it has an
        offset (templated).
    :param verified_only: list only backups that were restored and compared, and have not failed a verification
        since.
    :param labels: list only backups that have all of these labels (templated).
    :param limit: maximum number of backups (templated).
    :param fail_if_empty: fail if there is none, instead of returning an empty list.
    :param s3_extra_args: further arguments of S3 requests, such as those of SSE-C, ``RequestPayer`` or
        ``ExpectedBucketOwner``; each request gets those that it accepts. The connection may have them as well, see
        docs/s3-compatible.md.
    :returns: a list of dicts, each with ``uri``, ``key``, ``database``, ``created_at`` (ISO 8601), ``size``
        (bytes stored), ``verified``, and ``verification`` (``outcome``, ``level`` and ``at`` of the newest
        verification, or None). Backups of ours also have ``backup_id``, ``new_stored_bytes`` (the part of ``size``
        that is not shared with earlier backups), ``raw_bytes``, ``tables``, ``rows``, ``labels`` and
        ``left_out_by``, pg_dump's options that left something out.
    :raises AirflowFailException: the request cannot work.
    """

    template_fields: Sequence[str] = (
        "repository",
        "aws_conn_id",
        "database",
        "pattern",
        "before",
        "labels",
        "limit",
    )
    ui_color = "#f7f4f9"

    def __init__(
        self,
        *,
        repository: str,
        aws_conn_id: str | None = "aws_default",
        database: str | None = None,
        pattern: str | None = None,
        before: datetime | str | None = None,
        verified_only: bool = False,
        labels: Mapping[str, str] | None = None,
        limit: int | str | None = None,
        fail_if_empty: bool = True,
        s3_extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.repository = repository
        self.aws_conn_id = aws_conn_id
        self.database = database
        self.pattern = pattern
        self.before = before
        self.verified_only = verified_only
        self.labels = labels
        self.limit = limit
        self.fail_if_empty = fail_if_empty
        self.s3_extra_args = s3_extra_args

    def execute(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """List the backups."""
        with self._final_errors():
            selection = self._selection()
            repository, _ = open_repository(self.repository, self.aws_conn_id, self.s3_extra_args)
            now = datetime.now(UTC)
            if self.pattern:
                refs = self._archives(repository, self.pattern, selection)
                rows, table = [archive_row(ref) for ref in refs], archive_table(refs, now)
            else:
                entries = select(repository, selection, self.log)
                rows, table = [backup_row(entry) for entry in entries], backup_table(entries, now)
            if not rows and self.fail_if_empty:
                raise InputError(f"there is no backup {self._what()}: has one been made, and is the prefix right?")
        self.log.info("%d backups %s", len(rows), self._what())
        for line in table if rows else []:
            self.log.info("%s", line)
        return rows

    def _selection(self) -> Selection:
        database = arguments.as_database(self.database, otherwise="the backups of every database")
        if self.pattern and database:
            raise InputError(
                f"database={self.database!r} cannot be combined with a pattern, as the database of another tool's "
                "archive is unknown: select it by the pattern or the repository's prefix"
            )
        limit = None if self.limit in (None, "") else arguments.as_int(self.limit, "limit")
        if limit is not None and limit < 1:
            raise InputError(f"limit must be at least 1, not {limit}")
        return Selection(
            database=database,
            before=_time(self.before),
            labels=arguments.as_labels(self.labels),
            verified_only=self.verified_only,
            limit=limit,
        )

    def _archives(self, repository: Repository, pattern: str, selection: Selection) -> list[BackupRef]:
        """Return other tools' archives, which have neither labels nor verifications."""
        if selection.labels or selection.verified_only:
            return []
        refs = repository.foreign_archives(pattern)
        before = selection.before
        return [ref for ref in refs if before is None or ref.created_at < before][: selection.limit]

    def _what(self) -> str:
        parts = [f"in {self.repository}"]
        if self.database:
            parts.append(f"of database {self.database!r}")
        if self.pattern:
            parts.append(f"matching {self.pattern!r}")
        if self.before:
            parts.append(f"before {self.before}")
        if self.labels:
            parts.append(f"with labels {self.labels}")
        if self.verified_only:
            parts.append("that is verified")
        return " ".join(parts)


def _time(value: datetime | str | None) -> datetime | None:
    if value is None or value == "":
        return None
    return parse_time(value if isinstance(value, str) else value.isoformat(), "before")
