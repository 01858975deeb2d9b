"""What a verification has found so far, whether or not it comes to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_pg_s3.core.repository.verification_record import CheckResult, Difference, TableResult


@dataclass
class Findings:
    """Filled in as the work goes on, so that an error in the middle leaves what was known by then.

    :param where: the server restored into, for people.
    :param restore_seconds: how long the restore took.
    :param missing_locale: the source's locale, if the server does not know it.
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
