"""The operator that lists backups, so that a downstream task can take the latest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from airflow_pg_s3.hooks.options import ListOptions
from airflow_pg_s3.operators.base import PgS3Operator


class PgS3ListBackupsOperator(PgS3Operator):
    """List the complete backups in a repository, newest first; incomplete ones are never listed.

    All arguments are templated.

    :param repository: ``s3://bucket/any/prefix``, or a name in the option ``[pg_s3] repositories``; or a list of
        several, whose backups are listed one repository after the other.
    :param aws_conn_id: AWS connection; None for the machine's own credentials; ``aws_default`` leaves the choice
        to a named repository.
    :param database: list only this database's backups; None lists those of every database, and an empty name is an
        error.
    :param pattern: list archives of other tools instead, by a glob pattern of their keys below the prefix, such as
        ``*.tar.gz``. Their database, labels and verifications are unknown, and cannot be asked for.
    :param before: list only backups made before this time: a `datetime`, or ISO 8601 text, in UTC unless it has an
        offset.
    :param verified_only: list only backups that were restored and compared, and have not failed a verification
        since.
    :param labels: list only backups that have all of these labels.
    :param limit: maximum number of backups of each repository.
    :param fail_if_empty: fail if there is none, instead of returning an empty list.
    :param s3_extra_args: further arguments of S3 requests, such as those of SSE-C, ``RequestPayer`` or
        ``ExpectedBucketOwner``; each request gets those that it accepts. The connection may have them as well, see
        docs/s3-compatible.md.
    :returns: a list of dicts, each with ``uri``, ``key``, ``database``, ``created_at`` (ISO 8601),
        ``stored_bytes`` (also as ``size``), ``verified``, and ``verification`` (``outcome``, ``level`` and ``at``
        of the newest verification, or None). Backups of ours also have ``backup_id``, ``new_stored_bytes`` (the
        part of ``stored_bytes`` that is not shared with earlier backups), ``raw_bytes``, ``tables``, ``rows``,
        ``labels``, ``duration_seconds``, ``encrypted`` (a bool) and ``left_out_by``, pg_dump's options
        that left something out.
    :raises AirflowFailException: the request cannot work.
    """

    template_fields: Sequence[str] = (
        "repository",
        "aws_conn_id",
        "database",
        "pattern",
        "before",
        "verified_only",
        "labels",
        "limit",
        "fail_if_empty",
        "s3_extra_args",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"labels": "json", "s3_extra_args": "json"}
    ui_color = "#f7f4f9"

    def __init__(
        self,
        *,
        repository: Sequence[str] | str,
        aws_conn_id: str | None = "aws_default",
        database: str | None = None,
        pattern: str | None = None,
        before: datetime | str | None = None,
        verified_only: bool | str = False,
        labels: Mapping[str, str] | str | None = None,
        limit: int | str | None = None,
        fail_if_empty: bool | str = True,
        s3_extra_args: Mapping[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(aws_conn_id=aws_conn_id, s3_extra_args=s3_extra_args, **kwargs)
        self.repository = repository
        self.database = database
        self.pattern = pattern
        self.before = before
        self.verified_only = verified_only
        self.labels = labels
        self.limit = limit
        self.fail_if_empty = fail_if_empty

    def execute(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """List the backups."""
        from airflow_pg_s3.hooks.pg_s3 import list_backups

        several = [self.repository] if isinstance(self.repository, str) else self.repository
        hooks = [self._hook(context, repository) for repository in several]
        given = self._given(ListOptions.__annotations__)
        return list_backups(hooks, self.database, pattern=self.pattern, fail_if_empty=self.fail_if_empty, **given)
