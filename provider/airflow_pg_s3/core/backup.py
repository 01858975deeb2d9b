"""The backup: pg_dump into a bounded spool, from there to S3 while it is written, the manifest last."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from airflow_pg_s3 import __version__
from airflow_pg_s3.core import archive, globals, options, server
from airflow_pg_s3.core.backpressure import Backpressure
from airflow_pg_s3.core.backup_id import new_backup_id
from airflow_pg_s3.core.boundary import one_error
from airflow_pg_s3.core.codec import Encoder
from airflow_pg_s3.core.column_options import choose_pg_dump
from airflow_pg_s3.core.dump_watch import DumpWatch
from airflow_pg_s3.core.errors import Cancelled, ClientProgramError, InputError, PgS3Error, StorageError
from airflow_pg_s3.core.estimate import expected_bytes
from airflow_pg_s3.core.heartbeat import Heartbeat
from airflow_pg_s3.core.libpq import ConnectionParameters, add_options
from airflow_pg_s3.core.manifest import (
    Compression,
    Dump,
    Encryption,
    Manifest,
    Member,
    ObjectRecord,
    Producer,
    Table,
)  # fmt: skip
from airflow_pg_s3.core.pack import PACK_BYTES, SMALL_BYTES
from airflow_pg_s3.core.process import ClientProgram, running
from airflow_pg_s3.core.progress import Log, Progress, duration, human
from airflow_pg_s3.core.repository import Begun, Repository, read_manifest
from airflow_pg_s3.core.shipper import ShippedMember, Shipper
from airflow_pg_s3.core.spool import TOC, Spool
from airflow_pg_s3.core.staging import StagedBackup
from airflow_pg_s3.core.standby import exports_wrong_snapshots, warn_of_snapshots
from airflow_pg_s3.core.toc import check_files, read_toc
from airflow_pg_s3.core.upload import PART_BYTES, PARTS_PER_VOLUME, Uploader
from airflow_pg_s3.core.workspace import Workspace

if TYPE_CHECKING:
    from airflow_pg_s3.core.clients import ClientTools
    from airflow_pg_s3.core.server import ServerFacts

DEFAULT_SPOOL_LIMIT = 1 << 30
DEFAULT_COMPRESSION_LEVEL = 1
_SPOOL_PER_JOB = 8 << 20
_LOOK_SECONDS = 0.005
_SERIALIZABLE = "serializable-deferrable"
# What a server says of a snapshot that is another's, before 17 and since.
_SNAPSHOT_OF_ANOTHER = re.compile(
    'invalid snapshot identifier|snapshot ".*" does not exist|import a snapshot from a different database'
)


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
    :param small_bytes: members up to this size travel in packs.
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
    part_bytes: int = PART_BYTES
    parts_per_volume: int = PARTS_PER_VOLUME
    small_bytes: int = SMALL_BYTES
    pack_bytes: int = PACK_BYTES


@dataclass(frozen=True, kw_only=True)
class BackupResult:
    """A committed backup."""

    uri: str
    key: str
    manifest: Manifest


@one_error
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
    _check_numbers(request)
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
        given = options.check(request.pg_dump_options, tools=tools, program="pg_dump")
        if request.include_globals:
            globals.check_tools(tools)
        repository.check_access(database)
        newest = _newest_of_this_server(repository, database, facts, log)
        warn_of_snapshots(connection, request.jobs, given, log)
        _remove_abandoned(repository, request.source, connection, facts, log)
        backup_id = new_backup_id(facts.now)
        server.hold_lock(connection, backup_id)
        begun = Begun(backup_id=backup_id, database=database, instance=facts.instance)
        with (
            Workspace(request.spool_dir) as workspace,
            StagedBackup(repository, begun, request.s3_extra_args) as staged,
        ):
            log.info(
                "backing up %s (PostgreSQL %s, %s) with pg_dump %s to %s",
                request.source.endpoint,
                facts.server.version,
                human(facts.size_bytes),
                tools.version,
                repository.uri(staged.folder),
            )
            left_out_by = options.left_out_by(given)
            # pg_dump's name for itself, where the connection gives none.
            with DumpWatch(connection, request.source.keywords.get("application_name", "pg_dump")) as watch:
                dump = _Dump(
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
            manifest = _describe(dump, backup_id, encoder, staged, shipped)
            server.confirm_lock(connection, backup_id)
            staged.commit(manifest)
            try:
                server.confirm_lock(connection, backup_id)
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
        "committed %s: %d tables, %d rows, %s stored as %s",
        result.uri,
        manifest.tables,
        manifest.rows,
        human(manifest.raw_bytes),
        human(manifest.stored_bytes),
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


class _Dump:
    """One run of pg_dump, and its members' way to S3."""

    def __init__(
        self,
        request: BackupRequest,
        facts: ServerFacts,
        tools: ClientTools,
        workspace: Workspace,
        watch: DumpWatch,
        cancel: threading.Event,
        log: Log,
        *,
        given: Mapping[str, str | None],
        expected_bytes: int | None,
    ) -> None:
        self.request = request
        self.facts = facts
        self.tools = tools
        self.given = given
        self.workspace = workspace
        self.toc = workspace.folder / "toc.copy"
        self.seconds = 0.0
        self._watch = watch
        self._expected_bytes = expected_bytes
        self._cancel = cancel
        self._log = log

    def ship(
        self,
        repository: Repository,
        staged: StagedBackup,
        encoder: Encoder,
        connection: psycopg.Connection[tuple[Any, ...]],
    ) -> list[ShippedMember]:
        """Run pg_dump and ship what it writes; returns when all of it is on S3.

        :param connection: to the database, for the snapshot.
        """
        stop = threading.Event()
        spool = Spool(self.workspace.make_folder("spool"), cancel=stop)
        # First, as it takes no time: what fails should fail before hours of dumping.
        globals_file = self._dump_globals() if self.request.include_globals else None
        with (
            Uploader(
                repository.client,
                repository.bucket,
                cancel=stop,
                extra_args=self.request.s3_extra_args,
                part_bytes=self.request.part_bytes,
                parts_per_volume=self.request.parts_per_volume,
            ) as uploader,
            Shipper(
                spool,
                uploader,
                encoder,
                folder=staged.folder,
                jobs=self.request.jobs,
                small_bytes=self.request.small_bytes,
                pack_bytes=self.request.pack_bytes,
            ) as shipper,
        ):
            progress = Progress(self._log.info, lambda seconds: self._line(spool, uploader, seconds))
            # No longer than pg_dump needs it: a server has to keep what it shows.
            with self._snapshot(connection) as snapshot, self._pg_dump(spool, snapshot) as program:
                self._follow(program, spool, shipper, progress)
            if globals_file is not None:
                # Not before: pg_dump wants its folder empty.
                globals_file.rename(spool.archive / globals.GLOBALS)
            shutil.copyfile(spool.archive / TOC, self.toc)
            shipper.finish(wait=lambda: self._wait(progress))
            self.seconds = progress.seconds
            progress.end()
        if not spool.can_punch_holes:
            self._log.warning("spool_dir's filesystem cannot punch holes: large tables stayed in it until shipped")
        return shipper.shipped

    @contextmanager
    def _snapshot(self, connection: psycopg.Connection[tuple[Any, ...]]) -> Iterator[str | None]:
        if self.request.jobs == 1 and "snapshot" not in self.given and exports_wrong_snapshots(connection):
            yield None
            return
        with server.shared_snapshot(
            connection,
            self.facts,
            given=self.given.get("snapshot"),
            is_serializable=_SERIALIZABLE in self.given,
        ) as snapshot:
            if snapshot is None:
                raise self.request.source.another_server()
            try:
                yield snapshot
            except ClientProgramError as error:
                if not _SNAPSHOT_OF_ANOTHER.search(error.stderr_tail):
                    raise
                raise self.request.source.another_server() from error

    def _pg_dump(self, spool: Spool, snapshot: str | None) -> AbstractContextManager[ClientProgram]:
        source = self.request.source
        given = self.request.pg_dump_options
        if _SERIALIZABLE in self.given:
            # The snapshot is one already; pg_dump itself would ask for another.
            given = options.without(given, _SERIALIZABLE, tools=self.tools, program="pg_dump")
        argv = [
            self.tools.path("pg_dump"),
            "--format=directory",
            f"--jobs={self.request.jobs}",
            # We compress: the members are hashed and counted first.
            "--compress=0",
            # At its end it would sync files that are long gone.
            "--no-sync",
            "--no-password",
            f"--file={spool.archive}",
            *([] if snapshot is None else [f"--snapshot={snapshot}"]),
            f"--dbname={source.dbname_argument()}",
            *given,
        ]
        env = self._environment()
        if self.facts.options:
            add_options(env, self.facts.options)
        return running(argv, env=env, on_line=lambda line: self._log.info("%s", line))

    def _dump_globals(self) -> Path:
        file = self.workspace.folder / globals.GLOBALS
        argv = globals.dump_command(self.tools, self.request.source, self.facts.server.encoding, file)
        with running(argv, env=self._environment(), on_line=lambda line: self._log.info("%s", line)) as program:
            while program.poll() is None:
                self._raise_if_cancelled(_LOOK_SECONDS)
            self._raise_if_cancelled()
            program.check()
        return file

    def _environment(self) -> dict[str, str]:
        env = self.request.source.environment(self.workspace.folder, lc_monetary=self.facts.lc_monetary)
        return env | self.workspace.environment

    def _follow(self, program: ClientProgram, spool: Spool, shipper: Shipper, progress: Progress) -> None:
        """Hand members out and keep the spool within its limit, until pg_dump has ended well."""
        backpressure = Backpressure(program, self.request.spool_limit)
        while True:
            # Asked before the look, so that the last look sees all that was written.
            running_still = program.poll() is None
            shipper.raise_if_failed()
            shipper.dispatch()
            if not running_still:
                break
            backpressure.apply(spool.used_bytes())
            self._wait(progress)
        # Airflow ends the whole process group: pg_dump may have heeded it first.
        self._raise_if_cancelled()
        program.check()

    def _wait(self, progress: Progress) -> None:
        self._raise_if_cancelled(_LOOK_SECONDS)
        progress.tick()

    def _raise_if_cancelled(self, within_seconds: float = 0) -> None:
        if self._cancel.wait(within_seconds):
            raise Cancelled("the backup was stopped before its end; nothing of it is kept")

    def _line(self, spool: Spool, uploader: Uploader, seconds: float) -> str:
        raw = spool.shipped_bytes
        return "; ".join(
            [
                f"read {human(raw)}{_ahead(raw, self._expected_bytes, seconds)}",
                f"stored {human(uploader.stored_bytes)}",
                f"{human(raw / max(seconds, 0.001))}/s",
                f"members {spool.members_finished} of {spool.members_seen} so far",
                f"spool {human(spool.used_bytes())}",
                *filter(None, [self._watch.said]),
            ]
        )


def _ahead(raw: int, expected: int | None, seconds: float) -> str:
    """What is still ahead, unless there is more than anybody expected."""
    if expected is None or raw >= expected:
        return ""
    left = f", {duration(seconds * (expected - raw) / raw)} left" if raw else ""
    return f" of about {human(expected)}{left}"


def _describe(
    dump: _Dump, backup_id: str, encoder: Encoder, staged: StagedBackup, shipped: list[ShippedMember]
) -> Manifest:
    """Write down what was shipped; refuse if the archive is not whole, or could not be restored."""
    toc = read_toc(dump.toc)
    check_files(toc)
    tables = archive.tables_of_members(toc)
    names = {member.name for member in shipped}
    if not names.issuperset(tables):
        raise PgS3Error(
            f"pg_dump's table of contents names {sorted(set(tables) - names)[0]}, which was not shipped"
        )
    for name in sorted(names.difference(tables)):
        if name[0].isdigit():
            raise PgS3Error(f"pg_dump wrote {name}, but its table of contents does not say of which table")
    objects = {o.key: o.stored_bytes for member in shipped for o in member.objects}
    members = [_member(member, tables.get(member.name), staged.base) for member in sorted(shipped, key=_dump_id)]
    request = dump.request
    return Manifest(
        format=1,
        backup_id=backup_id,
        database=request.source.database,
        created_at=dump.facts.now,
        duration_seconds=round(dump.seconds, 3),
        labels=dict(request.labels),
        server=dump.facts.server,
        dump=Dump(
            pg_dump_version=dump.tools.version,
            options=list(request.pg_dump_options),
            left_out_by=options.left_out_by(list(dump.given.items())),
            lc_monetary=dump.facts.lc_monetary,
            jobs=request.jobs,
        ),
        compression=Compression(method="zstd", level=encoder.level),
        encryption=Encryption(method="age", recipients=encoder.recipients) if encoder.recipients else None,
        producer=Producer(tool="airflow-provider-pg-s3", version=__version__, **request.producer),
        raw_bytes=sum(member.raw_bytes for member in members),
        stored_bytes=sum(objects.values()),
        tables=len(tables),
        rows=sum(member.table.rows for member in members if member.table is not None),
        objects=[
            ObjectRecord(key=key.removeprefix(staged.base), stored_bytes=size) for key, size in objects.items()
        ],
        members=members,
    )


def _member(member: ShippedMember, table: archive.TableData | None, base: str) -> Member:
    record = None
    if table is not None:
        if member.content.copy_rows is None or member.content.copy_sha256 is None:
            raise PgS3Error(f"the data of {table.schema}.{table.name} ({member.name}) has no end: it is truncated")
        record = Table(
            schema=table.schema,
            name=table.name,
            columns=table.columns,
            rows=member.content.copy_rows,
            content_sha256=member.content.copy_sha256,
            through_root=table.through_root,
        )
    return Member(
        name=member.name,
        objects=[o.key.removeprefix(base) for o in member.objects],
        packed=member.packed,
        raw_bytes=member.content.raw_bytes,
        sha256=member.content.sha256,
        table=record,
    )


def _dump_id(member: ShippedMember) -> tuple[int, str]:
    number = member.name.partition(".")[0]
    return (int(number) if number.isdigit() else 0, member.name)


def _check_numbers(request: BackupRequest) -> None:
    if request.jobs < 1:
        raise InputError(f"jobs must be at least 1, not {request.jobs}")
    least = _SPOOL_PER_JOB * (request.jobs + 1)
    if request.spool_limit < least:
        raise InputError(
            f"spool_limit must be at least {least} bytes for {request.jobs} jobs, not {request.spool_limit}"
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


def _remove_abandoned(
    repository: Repository,
    source: ConnectionParameters,
    connection: psycopg.Connection[tuple[Any, ...]],
    facts: ServerFacts,
    log: Log,
) -> None:
    """Remove what backups left behind that were killed outright, if this server says that they are dead."""
    database = source.database
    pg_dump = source.keywords.get("application_name", "pg_dump")
    for begun in repository.abandoned(database):
        if begun.instance != facts.instance or server.is_alive(connection, begun.backup_id, pg_dump):
            continue
        # Asked after the lock: whoever held it may have committed just now.
        if not repository.is_committed(database, begun.backup_id):
            try:
                count = repository.remove_data(database, begun.backup_id)
                if repository.is_committed(database, begun.backup_id):
                    # Its manifest was on the way when it was killed, and would claim what is not there any more.
                    repository.retract(database, begun.backup_id)
            except StorageError as error:
                # Perhaps it may not delete: that must not stop backups.
                log.warning("backup %s was killed, and %s; prune will", begun.backup_id, error)
            else:
                log.info("removed %d objects of backup %s, which was killed", count, begun.backup_id)
