"""The request of a verification: what to verify, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.repository.repository import is_external
from airflow_pg_s3.core.repository.verification_record import Level


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """The request of a verification: what to verify, and how.

    :param backup: URI of the manifest.
    :param server: the server to create a scratch database on; None for a throwaway server on this machine.
    :param level: ``restore`` restores and compares; ``checksum`` reads and decodes every object.
    :param checks: queries on the restored database, each of which must return a single value, true.
    :param pre_restore_sql: commands to run in the scratch database before anything is restored.
    :param locate_differences: find the first differing row of each table, by a second pass.
    :param identities: age identities to decrypt an encrypted backup with.
    :param s3_extra_args: further arguments of S3 requests; each request gets those that it accepts.
    :param producer: the task that verifies, for the record.
    """

    backup: str
    server: ConnectionParameters | None = None
    level: Level = "restore"
    jobs: int = 2
    checks: Sequence[str] = ()
    pre_restore_sql: Sequence[str] = ()
    locate_differences: bool = False
    identities: Sequence[str] = ()
    spool_dir: str | None = None
    client_path: Sequence[str] = ()
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)
    producer: Mapping[str, Any] = field(default_factory=dict)


def check_request(request: VerifyRequest) -> None:
    """Refuse a request that contradicts itself.

    :raises InputError: it does; the message names the argument.
    """
    if request.level not in ("restore", "checksum"):
        raise InputError(f"level must be 'restore' or 'checksum', not {request.level!r}")
    if request.jobs < 1:
        raise InputError(f"jobs must be at least 1, not {request.jobs}")
    for_restore = (request.server, request.checks, request.pre_restore_sql, request.locate_differences)
    if request.level == "checksum" and any(for_restore):
        raise InputError(
            'level="checksum" restores nothing: leave out postgres_conn_id, checks, pre_restore_sql and '
            "locate_differences"
        )
    if is_external(request.backup):
        raise InputError(
            f"{request.backup} is neither a manifest nor a name such as latest or 2026-11-20T03:00; another "
            "tool's archive has no manifest to compare with: restore it with PgS3RestoreOperator, which checks "
            "that it is whole"
        )
