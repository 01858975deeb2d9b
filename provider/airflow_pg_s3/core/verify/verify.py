"""The verification: proves that a backup restores, or reports what differs or why it could not tell."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3 import __version__
from airflow_pg_s3.core.errors import Cancelled, InputError, PgS3Error
from airflow_pg_s3.core.postgres.errors import server_error, translate_errors
from airflow_pg_s3.core.reporting import Log, end_stage, human, plural, say_result
from airflow_pg_s3.core.repository.manifest import Producer
from airflow_pg_s3.core.repository.repository import StoredManifest, read_manifest
from airflow_pg_s3.core.repository.verification_record import Verification, record
from airflow_pg_s3.core.s3.requests import parse_uri
from airflow_pg_s3.core.verify.findings import Findings
from airflow_pg_s3.core.verify.object_check import check_objects
from airflow_pg_s3.core.verify.outcome import judge, one_line
from airflow_pg_s3.core.verify.request import VerifyRequest, check_request
from airflow_pg_s3.core.verify.restore_test import run_restore_test

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


TOOL = "airflow-provider-pg-s3"
_SHOWN = 3
_WARNINGS_SHOWN = 20
# Errors from outside, which are no bugs.
_TROUBLE = (PgS3Error, ClientError, BotoCoreError, OSError)


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """The result of a verification.

    :param evidence_uri: URI of its record; None if S3 refused to store it.
    :param retry_may_help: whether the outcome is "could not verify", and a retry may give another one.
    """

    stored: StoredManifest
    verification: Verification
    evidence_uri: str | None
    retry_may_help: bool

    def facts(self, uri: str) -> dict[str, Any]:
        """Say what people and programs want to know of it, in plain values.

        :param uri: of the backup's manifest.
        """
        found = self.verification
        return {
            "outcome": found.outcome,
            "uri": uri,
            "backup_id": self.stored.manifest.backup_id,
            "database": self.stored.manifest.database,
            "level": found.level,
            "tables": found.tables_matching,
            "rows": found.rows,
            "duration_seconds": found.duration_seconds,
            "restore_seconds": found.restore_seconds,
            "compare_seconds": found.compare_seconds,
            "evidence": self.evidence_uri,
            "warnings": found.warnings,
        }

    @property
    def sentence(self) -> str:
        """The outcome in one line."""
        found = self.verification
        what = f"backup {self.stored.manifest.backup_id} of {self.stored.manifest.database}"
        if found.outcome == "verified":
            how = "restored and compared" if found.level == "restore" else "every object read"
            return f"{what} is verified: {how}, {plural(len(found.tables), 'table')}, {plural(found.rows, 'row')}"
        if found.outcome == "could not verify":
            return f"{what}: could not verify: {found.reason}"
        shown = "; ".join(f"{d.kind} {d.name}: {d.detail}" for d in found.differences[:_SHOWN])
        count = len(found.differences)
        more = f" (and {count - _SHOWN} more)" if count > _SHOWN else ""
        return one_line(f"{what} FAILED verification: {shown}{more}")


@translate_errors
def verify(request: VerifyRequest, client: S3Client, *, cancel: threading.Event, log: Log) -> VerifyResult:
    """Verify a backup and record the outcome beside its manifest, whatever it is.

    :param client: boto3 S3 client.
    :param cancel: set from any thread to stop the verification.
    :raises InputError: there is no such backup, or the request contradicts itself; nothing is recorded.
    :raises IntegrityError: the manifest itself is damaged; nothing is recorded.
    :raises StorageError: the manifest cannot be read; nothing is recorded.
    :raises ServerError: PostgreSQL failed.
    :raises Cancelled: the verification was told to stop; nothing is recorded.
    """
    check_request(request)
    bucket, _ = parse_uri(request.backup, parameter="backup")
    stored = read_manifest(client, request.backup)
    findings = Findings()
    began_at, began = datetime.now(UTC), time.monotonic()
    trouble: Exception | None = None
    try:
        _examine(request, client, stored, findings, cancel=cancel, log=log)
    except Cancelled:
        raise
    except psycopg.Error as error:
        trouble = server_error(error)
    except _TROUBLE as error:
        trouble = error
    end_stage(log)
    outcome, reason = judge(findings, trouble, stored.manifest.server)
    verification = Verification(
        outcome=outcome,
        level=request.level,
        reason=reason,
        began_at=began_at,
        duration_seconds=round(time.monotonic() - began, 3),
        restore_seconds=findings.restore_seconds,
        compare_seconds=findings.compare_seconds,
        where=findings.where,
        server_version=findings.server_version,
        pg_restore_version=findings.pg_restore_version,
        producer=Producer(tool=TOOL, version=__version__, **request.producer),
        tables_matching=sum(table.matches for table in findings.tables),
        rows=sum(table.rows_found or 0 for table in findings.tables),
        tables=findings.tables,
        differences=findings.differences,
        checks=findings.checks,
        warnings=findings.warnings,
    )
    for warning in findings.warnings[:_WARNINGS_SHOWN]:
        log.warning("%s", warning)
    uri = None
    try:
        uri = record(client, bucket, stored, verification, request.s3_extra_args)
    except PgS3Error as error:
        log.warning("the outcome could not be recorded: %s", error)
    result = VerifyResult(
        stored=stored,
        verification=verification,
        evidence_uri=uri,
        retry_may_help=outcome == "could not verify" and not isinstance(trouble, InputError),
    )
    if outcome == "verified":  # anything else is the caller's error, which is logged as such
        say_result(log, "%s (%.1f s)", result.sentence, verification.duration_seconds)
    return result


def _examine(
    request: VerifyRequest,
    client: S3Client,
    stored: StoredManifest,
    findings: Findings,
    *,
    cancel: threading.Event,
    log: Log,
) -> None:
    by_restore = request.level == "restore"
    log.info(
        "verifying %s of %s (%s) by %s",
        stored.manifest.backup_id,
        stored.manifest.database,
        human(stored.manifest.raw_bytes),
        "restoring it" if by_restore else "its checksums",
    )
    examine = run_restore_test if by_restore else check_objects
    examine(request, stored, client, findings, cancel=cancel, log=log)
