"""The backup: pg_dump into a bounded spool, from there to S3 while it is written, the manifest last."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_pg_s3.core.backup.abandoned import remove_abandoned
from airflow_pg_s3.core.backup.advisory_lock import confirm_lock, hold_lock
from airflow_pg_s3.core.backup.dump_watch import DumpWatch
from airflow_pg_s3.core.backup.estimate import expected_bytes
from airflow_pg_s3.core.backup.manifest_builder import build_manifest
from airflow_pg_s3.core.backup.pg_dump import PgDump, check_tools
from airflow_pg_s3.core.backup.request import BackupRequest, check_request
from airflow_pg_s3.core.backup.staged_backup import StagedBackup
from airflow_pg_s3.core.backup.standby import warn_of_snapshots
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.postgres import client_options, server
from airflow_pg_s3.core.postgres.choose_pg_dump import choose_pg_dump
from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.postgres.heartbeat import Heartbeat
from airflow_pg_s3.core.reporting import Log, human
from airflow_pg_s3.core.repository.backup_id import new_backup_id
from airflow_pg_s3.core.repository.codec import Encoder
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import Begun, Repository, read_manifest
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from airflow_pg_s3.core.postgres.server import ServerFacts


@dataclass(frozen=True, kw_only=True)
class BackupResult:
    """A committed backup."""

    uri: str
    key: str
    manifest: Manifest


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
    database = request.source.database
    with (
        request.source.connect() as connection,
        Heartbeat(connection, "the connection that marks this backup as alive", cancel),
    ):
        facts = server.inspect(connection, request.source)
        request = replace(request, source=request.source.pinned(connection))
        tools = choose_pg_dump(
            connection,
            request.source,
            facts.server,
            search=request.client_path,
            spool_dir=request.spool_dir,
            cancel=cancel,
        )
        given = client_options.check(request.pg_dump_options, tools=tools, program="pg_dump")
        if request.include_globals:
            check_tools(tools)
        repository.check_access(database)
        newest = _newest_of_this_server(repository, database, facts, log)
        warn_of_snapshots(connection, request.jobs, given, log)
        remove_abandoned(repository, request.source, connection, facts, log)
        backup_id = new_backup_id(facts.now)
        hold_lock(connection, backup_id)
        begun = Begun(backup_id=backup_id, database=database, instance=facts.instance)
        with (
            Workspace(request.spool_dir) as workspace,
            StagedBackup(repository, begun, request.s3_extra_args, cancel=cancel, log=log) as staged,
        ):
            staged.wait_for_sweep()
            log.info(
                "backing up %s (PostgreSQL %s, %s) with pg_dump %s to %s",
                request.source.endpoint,
                facts.server.version,
                human(facts.size_bytes),
                tools.version,
                repository.uri(staged.folder),
            )
            left_out_by = client_options.left_out_by(given)
            with DumpWatch(connection, request.source.application_name("pg_dump")) as watch:
                dump = PgDump(
                    request,
                    facts,
                    tools,
                    workspace,
                    watch,
                    cancel,
                    log,
                    given=dict(given),
                    expected_bytes=expected_bytes(connection, newest, request.pg_dump_options, left_out_by),
                )
                shipped = dump.ship(repository, staged, encoder, connection)
            manifest = build_manifest(dump, backup_id, encoder, staged, shipped)
            confirm_lock(connection, backup_id)
            staged.commit(manifest)
            try:
                confirm_lock(connection, backup_id)
            except PgS3Error:
                # Without the lock another run may have begun to remove the objects before the manifest was there.
                staged.retract()
                raise
    result = BackupResult(uri=repository.uri(staged.manifest_key), key=staged.manifest_key, manifest=manifest)
    _say_committed(result, request, log)
    return result


def _say_committed(result: BackupResult, request: BackupRequest, log: Log) -> None:
    manifest = result.manifest
    log.info(
        "committed %s: %d tables, %d rows, %s stored as %s, of which %s are new (%d of %d chunks)",
        result.uri,
        manifest.tables,
        manifest.rows,
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


def _newest_of_this_server(repository: Repository, database: str, facts: ServerFacts, log: Log) -> Manifest | None:
    """Read the manifest of the newest backup; warn if it is of another server."""
    newest = next(iter(repository.backups(database)), None)
    if newest is None:
        return None
    try:
        manifest = read_manifest(repository.client, newest.uri).manifest
    except PgS3Error as error:
        log.warning("the newest backup in this place cannot be read: %s", error)
        return None
    ours, other = facts.server, manifest.server
    if (other.system_identifier, ours.system_identifier) != (None, None):
        same = other.system_identifier == ours.system_identifier
    else:
        same = other.host == ours.host
    if not same:
        log.warning(
            "%s is of another server (%s, system identifier %s) than this one (%s, %s) and has the same database "
            "name: give each server a repository of its own, or their backups will be taken for one another's",
            newest.uri,
            other.host,
            other.system_identifier,
            ours.host,
            ours.system_identifier,
        )
        return None
    return manifest
