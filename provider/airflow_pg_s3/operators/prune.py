"""The operator that deletes old backups by retention rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow_pg_s3 import arguments
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.retention.facts import facts_of
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import DEFAULT_ORPHAN_AGE, PruneRequest, prune
from airflow_pg_s3.hooks.repositories import open_repository
from airflow_pg_s3.operators.base import PgS3Operator

LISTED = 100
"""Maximum number of entries of each list in XCom; the log has all."""


class PgS3PruneOperator(PgS3Operator):
    """Delete the backups that no rule keeps, and what failed backups have left behind.

    A rule keeps the newest backup of each of the last n hours, days, weeks, months or years that have a backup. A
    backup is deleted if no rule keeps it. Never deleted are the newest backup and the newest verified one, backups
    with the label ``hold``, those that Object Lock protects, and what cannot be read. Data of a deleted backup
    that others refer to stays until they are deleted.

    :param repository: ``s3://bucket/any/prefix``, or a name in the option ``[pg_s3] repositories`` (templated).
    :param database: prune only this database's backups; None prunes those of every database, each by itself, and
        an empty name is an error (templated).
    :param keep_last: number of newest backups to keep; None or 0 turns a rule off (templated, like all rules).
    :param keep_hourly: number of hours to keep one backup for.
    :param keep_daily: number of days to keep one backup for.
    :param keep_weekly: number of ISO weeks, which begin on Monday, to keep one backup for.
    :param keep_monthly: number of months to keep one backup for.
    :param keep_yearly: number of years to keep one backup for.
    :param timezone: IANA name of the time zone of these hours, days, weeks, months and years (templated).
    :param orphan_age: data and verification records without a manifest are deleted when nothing has been written
        to them for this long; at least some hours, as a backup in progress may write only once in half an hour.
    :param dry_run: log and return what would be done, and delete nothing: a bool, or its text (templated).
    :param aws_conn_id: AWS connection; None for the machine's own credentials; ``aws_default`` leaves the choice
        to a named repository (templated).
    :param s3_extra_args: further arguments of S3 requests, such as those of SSE-C, ``RequestPayer`` or
        ``ExpectedBucketOwner``; each request gets those that it accepts. The connection may have them as well, see
        docs/s3-compatible.md.
    :returns: ``dry_run``; ``kept``, ``deleted``, ``protected``, ``unreadable``, ``orphans``: lists of dicts with
        ``database``, ``backup_id`` and ``reasons``, newest first, at most 100 in each list; ``counts``: the
        complete number for each list; ``freed_bytes``; ``needed_bytes``: of deleted backups that stay, as others
        refer to them; ``postponed``: by database, why data that nothing refers to was not deleted this time.
        Entries of ``deleted`` and ``orphans`` also have ``freed_bytes``.
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
    )
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
        s3_extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
        self.aws_conn_id = aws_conn_id
        self.s3_extra_args = s3_extra_args

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Prune, and return what was done."""
        with self._final_errors():
            retention = RetentionPolicy(
                keep_last=_number(self.keep_last, "keep_last"),
                keep_hourly=_number(self.keep_hourly, "keep_hourly"),
                keep_daily=_number(self.keep_daily, "keep_daily"),
                keep_weekly=_number(self.keep_weekly, "keep_weekly"),
                keep_monthly=_number(self.keep_monthly, "keep_monthly"),
                keep_yearly=_number(self.keep_yearly, "keep_yearly"),
                timezone=self.timezone,
            )
            dry_run = _flag(self.is_dry_run, "dry_run")
            repository, extra_args = open_repository(self.repository, self.aws_conn_id, self.s3_extra_args)
            request = PruneRequest(
                retention=retention,
                database=arguments.as_database(
                    self.database, otherwise="the backups of every database, each by itself"
                ),
                orphan_age=self.orphan_age,
                dry_run=dry_run,
                s3_extra_args=extra_args,
            )
            done = prune(request, repository, cancel=self._cancel, log=self.log)
        return self._report(context, {"dry_run": dry_run} | facts_of(done, listed=LISTED))


def _number(value: Any, parameter: str) -> int:
    return 0 if value in (None, "", "None") else arguments.as_int(value, parameter)


def _flag(value: bool | str, parameter: str) -> bool:
    """Convert a flag that a template may have rendered as text; a wrong guess would delete backups."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(value).strip().lower() not in known:
        raise InputError(f"{parameter} must be true or false, not {value!r}")
    return known[str(value).strip().lower()]
