"""The operator that deletes old backups by retention rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from airflow_pg_s3.core.retention.prune import DEFAULT_ORPHAN_AGE
from airflow_pg_s3.hooks.options import PruneOptions
from airflow_pg_s3.operators.base import PgS3Operator


class PgS3PruneOperator(PgS3Operator):
    """Delete the backups that no rule keeps, and what failed backups have left behind.

    A rule keeps the newest backup of each of the last n hours, days, weeks, months or years that have a backup. A
    backup is deleted if no rule keeps it. Never deleted are the newest backup and the newest verified one, backups
    with the label ``hold``, those that Object Lock protects, and what cannot be read. Data of a deleted backup
    that others refer to stays until they are deleted.

    All arguments but durations are templated.

    :param repository: ``s3://bucket/any/prefix``, or a name in the option ``[pg_s3] repositories``.
    :param database: prune only this database's backups; None prunes those of every database, each by itself, and
        an empty name is an error.
    :param keep_last: number of newest backups to keep; None or 0 turns a rule off.
    :param keep_hourly: number of hours to keep one backup for.
    :param keep_daily: number of days to keep one backup for.
    :param keep_weekly: number of ISO weeks, which begin on Monday, to keep one backup for.
    :param keep_monthly: number of months to keep one backup for.
    :param keep_yearly: number of years to keep one backup for.
    :param timezone: IANA name of the time zone of these hours, days, weeks, months and years.
    :param orphan_age: data and verification records without a manifest are deleted when nothing has been written
        to them for this long; at least some hours, as a backup in progress may write only once in half an hour.
    :param dry_run: log and return what would be done, and delete nothing: a bool, or its text.
    :param aws_conn_id: AWS connection; None for the machine's own credentials; ``aws_default`` leaves the choice
        to a named repository.
    :param s3_extra_args: further arguments of S3 requests, such as those of SSE-C, ``RequestPayer`` or
        ``ExpectedBucketOwner``; each request gets those that it accepts. The connection may have them as well, see
        docs/s3-compatible.md.
    :returns: ``dry_run``; ``uri`` of the repository; ``kept``, ``deleted``, ``protected``, ``unreadable``,
        ``orphans``: lists of dicts with ``uri``, ``database``, ``backup_id`` and ``reasons``, newest first, at
        most 100 in each list; ``counts``: the complete number for each list; ``freed_bytes``; ``needed_bytes``: of
        deleted backups that stay, as others refer to them; ``postponed``: by database, why data that nothing
        refers to was not deleted this time. Entries of ``deleted`` and ``orphans`` also have ``freed_bytes``.
    :raises AirflowFailException: the request cannot work; nothing was deleted, and a retry would not help.
    """

    template_fields: Sequence[str] = (
        "repository",
        "database",
        "keep_last",
        "keep_hourly",
        "keep_daily",
        "keep_weekly",
        "keep_monthly",
        "keep_yearly",
        "timezone",
        "is_dry_run",
        "aws_conn_id",
        "s3_extra_args",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"s3_extra_args": "json"}
    ui_color = "#fde0dd"

    def __init__(
        self,
        *,
        repository: str,
        database: str | None = None,
        keep_last: int | str | None = None,
        keep_hourly: int | str | None = None,
        keep_daily: int | str | None = None,
        keep_weekly: int | str | None = None,
        keep_monthly: int | str | None = None,
        keep_yearly: int | str | None = None,
        timezone: str = "UTC",
        orphan_age: timedelta = DEFAULT_ORPHAN_AGE,
        dry_run: bool | str = False,
        aws_conn_id: str | None = "aws_default",
        s3_extra_args: Mapping[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(aws_conn_id=aws_conn_id, s3_extra_args=s3_extra_args, **kwargs)
        self.repository = repository
        self.database = database
        self.keep_last = keep_last
        self.keep_hourly = keep_hourly
        self.keep_daily = keep_daily
        self.keep_weekly = keep_weekly
        self.keep_monthly = keep_monthly
        self.keep_yearly = keep_yearly
        self.timezone = timezone
        self.orphan_age = orphan_age
        self.is_dry_run = dry_run  # dry_run is a method of every operator

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Prune, and return what was done."""
        given = self._given(name for name in PruneOptions.__annotations__ if name != "dry_run")
        hook = self._hook(context, self.repository)
        facts = hook.prune(self.database, dry_run=self.is_dry_run, **given)
        return self._report(context, facts, hook)
