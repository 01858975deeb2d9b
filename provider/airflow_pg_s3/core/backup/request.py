"""What to back up, where to, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from airflow_pg_s3.core.backup.chunk_store import RUN_BYTES
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters

DEFAULT_SPOOL_LIMIT = 1 << 30
DEFAULT_COMPRESSION_LEVEL = 1
DEFAULT_FULL_EVERY = timedelta(days=30)
_SPOOL_PER_JOB = 8 << 20


@dataclass(frozen=True, kw_only=True)
class BackupRequest:
    """What to back up, and how.

    :param source: the database.
    :param jobs: parallel pg_dump jobs; pg_dump opens one connection more.
    :param spool_limit: bytes of disk for what pg_dump has written and S3 has not got.
    :param s3_extra_args: arguments for the S3 requests that accept them.
    :param labels: kept in the manifest, for finding the backup again.
    :param include_globals: store roles, memberships, settings of roles and tablespaces too, without passwords.
    :param client_path: folders to look for `pg_dump` in, before the usual ones.
    :param full: store all anew, also what earlier backups have stored.
    :param full_every: do so when what would be referred to is older than this.
    :param run_bytes: stored bytes after which an object of chunks ends.
    """

    source: ConnectionParameters
    jobs: int = 2
    compression_level: int = DEFAULT_COMPRESSION_LEVEL
    pg_dump_options: Sequence[str] = ()
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)
    age_recipients: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    include_globals: bool = False
    spool_dir: str | None = None
    spool_limit: int = DEFAULT_SPOOL_LIMIT
    client_path: Sequence[str] = ()
    producer: Mapping[str, Any] = field(default_factory=dict)
    full: bool = False
    full_every: timedelta = DEFAULT_FULL_EVERY
    run_bytes: int = RUN_BYTES


def check_request(request: BackupRequest) -> None:
    """Refuse numbers that cannot work.

    :raises InputError: naming the argument.
    """
    if request.jobs < 1:
        raise InputError(f"jobs must be at least 1, not {request.jobs}")
    if not isinstance(request.full_every, timedelta) or request.full_every < timedelta(0):
        raise InputError(f"full_every must be a timedelta of zero or more, not {request.full_every!r}")
    least = _SPOOL_PER_JOB * (request.jobs + 1)
    if request.spool_limit < least:
        raise InputError(
            f"spool_limit must be at least {least} bytes for {request.jobs} jobs, not {request.spool_limit}"
        )
