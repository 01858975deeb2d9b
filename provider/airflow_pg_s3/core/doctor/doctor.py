"""The examination of all that a backup needs. Nothing of it stays."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_pg_s3.core.backup.request import DEFAULT_SPOOL_LIMIT
from airflow_pg_s3.core.doctor.findings import Findings
from airflow_pg_s3.core.doctor.machine import examine_machine
from airflow_pg_s3.core.doctor.postgres import examine_postgres
from airflow_pg_s3.core.doctor.repository import examine_repository
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.repository.repository import Repository


@dataclass(frozen=True, kw_only=True)
class DoctorRequest:
    """The backup whose chances are examined; see `BackupRequest`."""

    source: ConnectionParameters
    jobs: int = 2
    spool_dir: str | None = None
    spool_limit: int = DEFAULT_SPOOL_LIMIT
    client_path: Sequence[str] = ()
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)


@translate_errors
def examine(request: DoctorRequest, repository: Repository, *, cancel: threading.Event) -> Findings:
    """Look at the server, the client programs, S3 and this machine; whatever is wrong is noted, and not raised.

    An object is stored and deleted again; pg_dump reads the definitions, and writes them nowhere.

    :param cancel: set from anywhere to stop.
    :raises Cancelled: told to stop.
    """
    findings = Findings()
    size_bytes = examine_postgres(
        request.source,
        jobs=request.jobs,
        search=request.client_path,
        spool_dir=request.spool_dir,
        findings=findings,
        cancel=cancel,
    )
    examine_repository(
        repository,
        request.source.database,
        extra_args=request.s3_extra_args,
        findings=findings,
        cancel=cancel,
    )
    examine_machine(request.spool_dir, request.spool_limit, size_bytes, findings)
    return findings
