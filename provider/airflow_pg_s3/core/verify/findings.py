"""The findings of a verification, kept even if it does not complete."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_pg_s3.core.repository.verification_record import CheckResult, Difference, TableResult


@dataclass
class Findings:
    """The findings of a verification, filled in as it proceeds, so that an error leaves what was known by then.

    :param where: the server that was restored into, for messages.
    :param restore_seconds: duration of the restore.
    :param missing_locale: the source's locale, if the server lacks it.
    """

    where: str | None = None
    server_version: str | None = None
    pg_restore_version: str | None = None
    restore_seconds: float | None = None
    compare_seconds: float | None = None
    missing_locale: str | None = None
    tables: list[TableResult] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
