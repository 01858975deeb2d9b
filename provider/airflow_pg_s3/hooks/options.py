"""Options of the hook's methods: those of the operators, which describe them.

Each is given as the operators take it, also as the text that a template has rendered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypedDict

from airflow_pg_s3.arguments import (
    Coercion,
    as_bool,
    as_commands,
    as_count,
    as_int,
    as_it_is,
    as_labels,
    as_list,
    as_optional_int,
    as_optional_text,
    as_optional_time,
)  # fmt: skip

THAW_INTERVAL = timedelta(minutes=5)
"""Time between two checks whether S3 has restored archived objects."""
DEFAULT_THAW_DAYS = 3
Flag = bool | str
Texts = Sequence[str] | str | None


def check_names(given: Mapping[str, object], known: type) -> None:
    """Refuse options that a method does not have, as Python does.

    :param known: the class of the method's options.
    :raises TypeError: there is one.
    """
    for name in given.keys() - known.__annotations__.keys():
        raise TypeError(f"unexpected argument {name!r}: there are {', '.join(sorted(known.__annotations__))}")


class BackupOptions(TypedDict, total=False):
    """Options of a backup; see `PgS3BackupOperator`."""

    jobs: int | str
    compression_level: int | str
    pg_dump_options: Texts
    age_recipients: Texts
    labels: Mapping[str, str] | str | None
    include_globals: Flag
    full: Flag
    full_every: timedelta
    spool_dir: str | None
    spool_limit: int | str


BACKUP: dict[str, Coercion] = {
    "jobs": as_int,
    "compression_level": as_int,
    "pg_dump_options": as_list,
    "age_recipients": as_list,
    "labels": as_labels,
    "include_globals": as_bool,
    "full": as_bool,
    "full_every": as_it_is,
    "spool_dir": as_optional_text,
    "spool_limit": as_int,
}


class ListOptions(TypedDict, total=False):
    """Which backups to list; see `PgS3ListBackupsOperator`."""

    before: datetime | str | None
    verified_only: Flag
    labels: Mapping[str, str] | str | None
    limit: int | str | None


LIST: dict[str, Coercion] = {
    "before": as_optional_time,
    "verified_only": as_bool,
    "labels": as_labels,
    "limit": as_optional_int,
}


class RestoreOptions(TypedDict, total=False):
    """Options of a restore; see `PgS3RestoreOperator`."""

    if_exists: str
    keep_previous: Flag
    allow_partial: Flag
    single_transaction: Flag
    jobs: int | str
    tables: Texts
    schemas: Texts
    exclude_tables: Texts
    schema_only: Flag
    data_only: Flag
    create_database: Flag
    pg_restore_options: Texts
    no_owner: Flag
    no_privileges: Flag
    restore_globals: Flag
    managed_service: Flag
    pre_restore_sql: Texts
    pre_data_sql: Texts
    post_restore_sql: Texts
    age_identity_conn_id: str | None
    spool_dir: str | None
    allow_unsafe_psql: Flag
    thaw: str | None
    thaw_days: int | str


RESTORE: dict[str, Coercion] = {
    "if_exists": as_it_is,
    "keep_previous": as_bool,
    "allow_partial": as_bool,
    "single_transaction": as_bool,
    "jobs": as_int,
    "create_database": as_bool,
    "pg_restore_options": as_list,
    "no_owner": as_bool,
    "no_privileges": as_bool,
    "restore_globals": as_bool,
    "managed_service": as_bool,
    "pre_restore_sql": as_commands,
    "pre_data_sql": as_commands,
    "post_restore_sql": as_commands,
    "spool_dir": as_optional_text,
    "allow_unsafe_psql": as_bool,
}
SELECTION: dict[str, Coercion] = {
    "tables": as_list,
    "schemas": as_list,
    "exclude_tables": as_list,
    "schema_only": as_bool,
    "data_only": as_bool,
}
THAW: dict[str, Coercion] = {"thaw": as_optional_text, "thaw_days": as_int}


class VerifyOptions(TypedDict, total=False):
    """Options of a verification; see `PgS3VerifyOperator`."""

    jobs: int | str
    level: str
    checks: Texts
    pre_restore_sql: Texts
    locate_differences: Flag
    age_identity_conn_id: str | None
    spool_dir: str | None


VERIFY: dict[str, Coercion] = {
    "jobs": as_int,
    "level": as_it_is,
    "checks": as_list,
    "pre_restore_sql": as_commands,
    "locate_differences": as_bool,
    "spool_dir": as_optional_text,
}


class DoctorOptions(TypedDict, total=False):
    """Options of a backup to come; see `PgS3DoctorOperator`."""

    jobs: int | str
    spool_dir: str | None
    spool_limit: int | str


DOCTOR: dict[str, Coercion] = {"jobs": as_int, "spool_dir": as_optional_text, "spool_limit": as_int}


class PruneOptions(TypedDict, total=False):
    """Retention rules, and what else a prune can be told; see `PgS3PruneOperator`."""

    keep_last: int | str | None
    keep_hourly: int | str | None
    keep_daily: int | str | None
    keep_weekly: int | str | None
    keep_monthly: int | str | None
    keep_yearly: int | str | None
    timezone: str
    orphan_age: timedelta
    dry_run: Flag


RETENTION: dict[str, Coercion] = {
    "keep_last": as_count,
    "keep_hourly": as_count,
    "keep_daily": as_count,
    "keep_weekly": as_count,
    "keep_monthly": as_count,
    "keep_yearly": as_count,
    "timezone": as_it_is,
}
PRUNE: dict[str, Coercion] = {"orphan_age": as_it_is, "dry_run": as_bool}
