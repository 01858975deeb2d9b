"""The backup: pg_dump into a bounded spool, from there to S3 while it is written, the manifest last."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_pg_s3.core.backup.abandoned import remove_abandoned, remove_all_but_one
from airflow_pg_s3.core.backup.abandoned_chunks import AbandonedChunks, read_abandoned
from airflow_pg_s3.core.backup.advisory_lock import confirm_lock, hold_lock
from airflow_pg_s3.core.backup.dump_plan import DumpPlan, plan_dump
from airflow_pg_s3.core.backup.manifest_builder import build_manifest
from airflow_pg_s3.core.backup.pg_dump import PgDump
from airflow_pg_s3.core.backup.request import BackupRequest, check_request
from airflow_pg_s3.core.backup.staged_backup import StagedBackup
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.postgres.heartbeat import Heartbeat
from airflow_pg_s3.core.reporting import Log, begin_stage, duration, end_stage, human, plural
from airflow_pg_s3.core.repository.backup_id import new_backup_id
from airflow_pg_s3.core.repository.codec import Encoder
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import Begun, Repository
from airflow_pg_s3.core.workspace.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class BackupResult:
    """A committed backup."""

    uri: str
    key: str
    manifest: Manifest

    @property
    def facts(self) -> dict[str, Any]:
        """What people and programs want to know of it, in plain values."""
        manifest = self.manifest
        return {
            "uri": self.uri,
            "key": self.key,
            "backup_id": manifest.backup_id,
            "database": manifest.database,
            "created_at": manifest.created_at.isoformat(),
            "raw_bytes": manifest.raw_bytes,
            "stored_bytes": manifest.stored_bytes,
            "new_stored_bytes": manifest.new_stored_bytes,
            "chunks": manifest.chunks,
            "new_chunks": manifest.new_chunks,
            "tables": manifest.tables,
            "rows": manifest.rows,
            "left_out_by": manifest.dump.left_out_by,
            "duration_seconds": manifest.duration_seconds,
        }


@translate_errors
def back_up(request: BackupRequest, repository: Repository, *, cancel: threading.Event, log: Log) -> BackupResult:
    """Back one database up. Either the backup is complete and committed, or nothing of it stays.

    :param cancel: set from anywhere to stop.
    :raises InputError: the request cannot work; nothing was touched.
    :raises ClientProgramError: pg_dump failed.
    :raises StorageError: S3 failed.
    :raises ServerError: PostgreSQL failed.
    :raises Cancelled: told to stop.
    """
    encoder = Encoder(level=request.compression_level, recipients=request.age_recipients)
    check_request(request)
    begin_stage(log, "Preflight")
    with (
        request.source.connect() as connection,
        Heartbeat(connection, "the connection that marks this backup as alive", cancel),
    ):
        plan = plan_dump(request, repository, connection, cancel=cancel, log=log)
        killed = remove_all_but_one(repository, plan.request, connection, plan.facts, log)
        backup_id = new_backup_id(plan.facts.now)
        hold_lock(connection, backup_id)
        begun = Begun(
            backup_id=backup_id,
            database=request.source.database,
            instance=plan.facts.instance,
            recipients=tuple(request.age_recipients),
        )
        with (
            Workspace(request.spool_dir) as workspace,
            StagedBackup(repository, begun, request.s3_extra_args, cancel=cancel, log=log) as staged,
        ):
            staged.wait_for_sweep()
            _say_begun(plan, repository.uri(staged.folder), log)
            begin_stage(log, "Dump")
            abandoned = read_abandoned(repository, killed, request.s3_extra_args, cancel, log)
            dump = PgDump(plan, workspace, cancel, log)
            shipped = dump.ship(repository, staged, encoder, connection, abandoned)
            begin_stage(log, "Commit")
            log.info("every object is stored; the manifest follows")
            manifest = build_manifest(dump, backup_id, encoder, staged, shipped)
            _commit(staged, manifest, connection)
        if abandoned is not None:
            _say_copied(abandoned, log)
            remove_abandoned(repository, abandoned.begun, log)
    result = BackupResult(uri=repository.uri(staged.manifest_key), key=staged.manifest_key, manifest=manifest)
    end_stage(log)
    _say_committed(result, request, log)
    return result


def _commit(staged: StagedBackup, manifest: Manifest, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Make the backup exist, unless another run may have taken it for abandoned."""
    confirm_lock(connection, manifest.backup_id)
    staged.commit(manifest)
    try:
        confirm_lock(connection, manifest.backup_id)
    except PgS3Error:
        # Without the lock another run may have begun to remove the objects before the manifest was there.
        staged.retract()
        raise


def _say_begun(plan: DumpPlan, folder: str, log: Log) -> None:
    log.info(
        "backing up %s (PostgreSQL %s, %s) with pg_dump %s to %s",
        plan.request.source.endpoint,
        plan.facts.server.version,
        human(plan.facts.size_bytes),
        plan.tools.version,
        folder,
    )


def _say_copied(abandoned: AbandonedChunks, log: Log) -> None:
    log.info(
        "%d objects (%s) of backup %s, which was killed, were copied instead of being stored anew",
        abandoned.copied_runs,
        human(abandoned.copied_bytes),
        abandoned.begun.backup_id,
    )


def _say_committed(result: BackupResult, request: BackupRequest, log: Log) -> None:
    manifest = result.manifest
    log.info(
        "committed %s in %s: %s, %s, %s stored as %s; %s of that is new: %d of %d chunks, "
        "besides small tables and definitions, which every backup stores",
        result.uri,
        duration(manifest.duration_seconds),
        plural(manifest.tables, "table"),
        plural(manifest.rows, "row"),
        human(manifest.raw_bytes),
        human(manifest.stored_bytes),
        human(manifest.new_stored_bytes),
        manifest.new_chunks,
        manifest.chunks,
    )
    keys = ["the age identity"] if manifest.encryption is not None else []
    if "SSECustomerKey" in request.s3_extra_args:
        keys.append("the SSE-C key")
    if keys:
        log.info(
            "nothing opens this backup without %s: keep a copy outside of Airflow, whose database may be what is "
            "lost, and one of Airflow's Fernet key, without which its connections cannot be read",
            " and ".join(keys),
        )
