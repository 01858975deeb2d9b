"""The verification: it proves a backup, or says what differs, or why nothing could be told; and records that."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3 import __version__
from airflow_pg_s3.core.blame import are_rows_at_fault, is_the_archives_fault
from airflow_pg_s3.core.boundary import one_error, server_error
from airflow_pg_s3.core.checksum import check_objects
from airflow_pg_s3.core.errors import (
    Cancelled,
    ClientProgramError,
    CopyError,
    InputError,
    IntegrityError,
    PgS3Error,
)
from airflow_pg_s3.core.evidence import Difference, Level, Outcome, Verification, record
from airflow_pg_s3.core.findings import Findings
from airflow_pg_s3.core.foreign import is_foreign
from airflow_pg_s3.core.libpq import ConnectionParameters
from airflow_pg_s3.core.manifest import Producer, Server
from airflow_pg_s3.core.progress import Log, human
from airflow_pg_s3.core.repository import StoredManifest, read_manifest
from airflow_pg_s3.core.s3 import parse_uri
from airflow_pg_s3.core.search_path import function_without_schemas
from airflow_pg_s3.core.trial import Trial, run_trial

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TOOL = "airflow-provider-pg-s3"
_SHOWN = 3
_LINE_CHARACTERS = 2000
_WARNINGS_SHOWN = 20
# What goes wrong outside, and is no bug.
_TROUBLE = (PgS3Error, ClientError, BotoCoreError, OSError)


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """What to verify, and how.

    :param backup: URI of the manifest.
    :param server: where to make a scratch database; None for a throwaway server on this machine.
    :param level: ``restore`` restores and compares; ``checksum`` reads and decodes every object.
    :param checks: queries for the restored database, each of which must return one value, true.
    :param pre_restore_sql: commands to run in the scratch database before anything is restored.
    :param locate_differences: find the first differing row of each table, by a second pass.
    :param identities: age identities that may open an encrypted backup.
    :param s3_extra_args: arguments for the S3 requests that accept them.
    :param producer: of the task that verifies, for the record.
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


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What came out of it.

    :param evidence_uri: where it is recorded; None if S3 refused.
    :param retry_may_help: whether it could not verify, and may the next time.
    """

    stored: StoredManifest
    verification: Verification
    evidence_uri: str | None
    retry_may_help: bool

    @property
    def sentence(self) -> str:
        """The outcome in one line."""
        found = self.verification
        what = f"backup {self.stored.manifest.backup_id} of {self.stored.manifest.database}"
        if found.outcome == "verified":
            how = "restored and compared" if found.level == "restore" else "every object read"
            return f"{what} is verified: {how}, {len(found.tables)} tables, {found.rows} rows"
        if found.outcome == "could not verify":
            return f"{what}: could not verify: {found.reason}"
        shown = "; ".join(f"{d.kind} {d.name}: {d.detail}" for d in found.differences[:_SHOWN])
        count = len(found.differences)
        more = f" (and {count - _SHOWN} more)" if count > _SHOWN else ""
        return _one_line(f"{what} FAILED verification: {shown}{more}")


@one_error
def verify(request: VerifyRequest, client: S3Client, *, cancel: threading.Event, log: Log) -> VerifyResult:
    """Verify a backup and record the outcome beside its manifest, whatever it is.

    :param client: boto3 S3 client.
    :param cancel: set from anywhere to stop.
    :raises InputError: there is no such backup, or the request makes no sense; nothing is recorded.
    :raises IntegrityError: the manifest itself is damaged; nothing is recorded.
    :raises StorageError: the manifest cannot be read; nothing is recorded.
    :raises ServerError: PostgreSQL failed.
    :raises Cancelled: told to stop; nothing is recorded.
    """
    check_request(request)
    bucket, _ = parse_uri(request.backup, parameter="backup")
    stored = read_manifest(client, request.backup)
    findings = Findings()
    began_at, began = datetime.now(UTC), time.monotonic()
    trouble: Exception | None = None
    try:
        _look(request, client, bucket, stored, findings, cancel=cancel, log=log)
    except Cancelled:
        raise
    except psycopg.Error as error:
        trouble = server_error(error)
    except _TROUBLE as error:
        trouble = error
    outcome, reason = _judge(findings, trouble, stored.manifest.server)
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
    log.info("%s (%.1f s)", result.sentence, verification.duration_seconds)
    return result


def check_request(request: VerifyRequest) -> None:
    """Refuse what makes no sense.

    :raises InputError: naming the argument.
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
    if is_foreign(request.backup):
        raise InputError(
            f"{request.backup} is another tool's archive: it has no manifest to compare with; restore it with "
            "PgS3RestoreOperator, which checks that it is whole"
        )


def _look(
    request: VerifyRequest,
    client: S3Client,
    bucket: str,
    stored: StoredManifest,
    findings: Findings,
    *,
    cancel: threading.Event,
    log: Log,
) -> None:
    log.info(
        "verifying %s of %s (%s) by %s",
        stored.manifest.backup_id,
        stored.manifest.database,
        human(stored.manifest.raw_bytes),
        "restoring it" if request.level == "restore" else "its checksums",
    )
    if request.level == "checksum":
        check_objects(
            stored,
            client,
            bucket,
            findings,
            jobs=request.jobs,
            identities=request.identities,
            spool_dir=request.spool_dir,
            cancel=cancel,
            log=log,
        )
        return
    trial = Trial(
        backup=request.backup,
        bucket=bucket,
        stored=stored,
        server=request.server,
        jobs=request.jobs,
        checks=request.checks,
        pre_restore_sql=request.pre_restore_sql,
        locate_differences=request.locate_differences,
        identities=request.identities,
        spool_dir=request.spool_dir,
        client_path=request.client_path,
    )
    run_trial(trial, client, findings, cancel=cancel, log=log)


def _judge(findings: Findings, trouble: Exception | None, source: Server) -> tuple[Outcome, str | None]:
    """Tell the outcome, and the reason if nothing could be told."""
    if trouble is not None and _is_damage(trouble, findings, source):
        kind, name = "object", "backup"
        if isinstance(trouble, ClientProgramError):
            kind, name = "restore", trouble.program
        elif isinstance(trouble, CopyError):
            kind, name = "restore", trouble.table
        findings.differences.append(Difference(kind=kind, name=name, detail=str(trouble)))
    elif trouble is not None and findings.differences:
        findings.warnings.append(f"the verification did not come to its end: {trouble}")
    if findings.differences:
        return "failed", None
    if trouble is not None:
        return "could not verify", _one_line(str(trouble)) or type(trouble).__name__
    return "verified", None


def _is_damage(trouble: Exception, findings: Findings, source: Server) -> bool:
    """Whether trouble says something of the backup, rather than of what it was tried with."""
    if isinstance(trouble, IntegrityError):
        return True
    if findings.missing_locale is not None:
        # With other orders than the source's, a row may belong into another partition.
        return False
    if isinstance(trouble, CopyError):
        # What an extension's tables take, its version and its settings decide.
        return not trouble.is_of_extension and are_rows_at_fault(trouble.sqlstate)
    if not isinstance(trouble, ClientProgramError) or trouble.program != "pg_restore" or trouble.returncode < 0:
        return False
    if function_without_schemas(trouble.stderr_tail) is not None:
        return False
    return is_the_archives_fault(trouble.stderr_tail, like_source=_is_like(source, findings))


def _is_like(source: Server, findings: Findings) -> bool:
    """Whether the server has all that the source's had by itself, and the backup needs nothing else."""
    is_same_major = (findings.server_version or "").split(".")[0] == str(source.version_num // 10000)
    return is_same_major and {extension.name for extension in source.extensions} <= {"plpgsql"}


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LINE_CHARACTERS else line[:_LINE_CHARACTERS] + "…"
