"""The restore: definitions by pg_restore, rows by COPY straight from S3, with no copy of the backup on disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_options, client_tools
from airflow_pg_s3.core.postgres.archive.definitions import Definition, definitions_of
from airflow_pg_s3.core.postgres.archive.requirements import requirements_of
from airflow_pg_s3.core.postgres.archive.toc import TOC, Entry, Toc
from airflow_pg_s3.core.postgres.databases import run_sql
from airflow_pg_s3.core.postgres.encodings import psycopg_knows
from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.postgres.libpq_keywords import check_keywords
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.postgres.subscriptions import detach_restored
from airflow_pg_s3.core.reporting import Log, human
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.manifest import GLOBALS, Manifest
from airflow_pg_s3.core.repository.repository import StoredManifest, read_manifest
from airflow_pg_s3.core.repository.thaw import refuse_archived
from airflow_pg_s3.core.restore import preflight
from airflow_pg_s3.core.restore.clean import CLEAN, Cleaning, check_encoding
from airflow_pg_s3.core.restore.database_swap import SwapTarget, open_target
from airflow_pg_s3.core.restore.existing_objects import change_owner_of_public, standing
from airflow_pg_s3.core.restore.globals import read_script
from airflow_pg_s3.core.restore.links_to_other_tables import tie
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.copy_session import LoadingOptions, become, loading_options
from airflow_pg_s3.core.restore.load.load import Load, on_one_lane
from airflow_pg_s3.core.restore.load.pg_restore import PgRestore
from airflow_pg_s3.core.restore.load.plan import made_by
from airflow_pg_s3.core.restore.managed_service import UnprivilegedRestore
from airflow_pg_s3.core.restore.one_transaction import PlainDefiner, restore_in_one_transaction
from airflow_pg_s3.core.restore.request import (
    RestoreRequest,
    can_be_atomic,
    check_name,
    check_request,
    refuse_partial,
)
from airflow_pg_s3.core.restore.selection import ChosenEntries, choose
from airflow_pg_s3.core.restore.target import InPlaceTarget, finish, refuse_older, run_in
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.requests import parse_uri
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_pg_s3.core.postgres.client_tools import ClientTools


@dataclass(frozen=True, kw_only=True)
class RestoreResult:
    """A finished restore.

    :param warnings: what is otherwise than in the source, a sentence each.
    :param previous_database: name of the database that was replaced, if it is kept.
    :param tables: tables whose data was restored, with `rows` in them and `raw_bytes` of COPY text.
    """

    manifest: Manifest
    warnings: list[str]
    database: str
    previous_database: str | None
    tables: int
    rows: int
    raw_bytes: int
    read_bytes: int
    duration_seconds: float


@translate_errors
def restore(
    request: RestoreRequest,
    client: S3Client,
    *,
    cancel: threading.Event,
    log: Log,
    stored: StoredManifest | None = None,
) -> RestoreResult:
    """Restore a backup into a database. Every member is checked before PostgreSQL gets the end of it.

    :param client: boto3 S3 client.
    :param cancel: set from anywhere to stop.
    :param stored: the manifest, if it has been read already.
    :raises InputError: the request cannot work; nothing was touched.
    :raises DataConflict: the target holds something; nothing was touched.
    :raises IntegrityError: what S3 holds is not what was backed up.
    :raises ClientProgramError: pg_restore failed.
    :raises StorageError: S3 failed.
    :raises ServerError: PostgreSQL failed.
    :raises Cancelled: told to stop.
    """
    check_request(request)
    bucket, _ = parse_uri(request.backup, parameter="backup")
    manifest, base, _ = stored or read_manifest(client, request.backup)
    refuse_archived(client, request.backup, cancel=cancel)
    refuse_partial(request, manifest)
    warnings = check_name(request, manifest.database, log)
    decoder = Decoder(manifest.encryption, request.identities)
    has_globals = manifest.dump.has_globals
    if request.restore_globals and not has_globals:
        raise InputError(
            f"restore_globals=True, but {request.backup} holds no globals, as it was made without "
            "include_globals=True: create the roles, or leave restore_globals out"
        )
    began = time.monotonic()
    stop = threading.Event()
    with (
        Workspace(request.spool_dir) as workspace,
        Downloader(client, bucket, cancel=stop, threads=request.jobs + 2) as downloader,
    ):
        archive = ArchiveFolder(manifest, base, downloader, decoder, workspace)
        archive.fetch([TOC, GLOBALS] if request.restore_globals else [TOC])
        with open_target(request, cancel, log) as target:
            refuse_older(target.version, manifest.server.version)
            tools = client_tools.for_restore(
                dumped_by=manifest.dump.pg_dump_version,
                target_version=target.version,
                search=request.client_path,
            )
            check_keywords(target.params, tools.folder, tools.version)
            given = client_options.check(request.pg_restore_options, tools=tools, program="pg_restore")
            chosen = choose(
                archive,
                tools=tools,
                wanted=request.wanted,
                options=request.pg_restore_arguments,
                # What the selected objects need can only be missing where nothing is dropped before.
                exists=(lambda entry: True) if request.if_exists == "clean" else target.holds,
            )
            if request.wanted.data_only and isinstance(target, InPlaceTarget):
                target.refuse_rows(chosen.tables)
            else:
                target.check(chosen.relations)
            ready = make_ready(
                request,
                target,
                archive.folder,
                archive.toc,
                chosen.entries,
                tools=tools,
                given=given,
                like=manifest.server,
                globals_script=(
                    read_script(archive.folder / GLOBALS, manifest.server.codec)
                    if request.restore_globals
                    else None
                ),
                has_globals=has_globals,
                lc_monetary=manifest.dump.lc_monetary,
                cancel=cancel,
                log=log,
            )
            log.info(
                "restoring %s (%s of %s, %s) into %s (PostgreSQL %d) with pg_restore %s",
                manifest.backup_id,
                human(manifest.raw_bytes),
                manifest.database,
                manifest.created_at.isoformat(),
                target.params.endpoint,
                target.version // 10000,
                tools.version,
            )
            filling = _Filling(request, archive, chosen, ready, target, tools, given, cancel, stop, log)
            filling.fill()
            target.promote()
            warnings += [*ready.warnings, *target.warnings]
    tables = [member.table for member in chosen.members if member.table is not None]
    result = RestoreResult(
        manifest=manifest,
        warnings=warnings,
        database=request.target.database,
        previous_database=target.previous,
        tables=len(tables),
        rows=sum(table.rows for table in tables),
        raw_bytes=sum(member.raw_bytes for member in chosen.members),
        read_bytes=downloader.read_bytes,
        duration_seconds=round(time.monotonic() - began, 3),
    )
    log.info(
        "restored %s into %s: tables %d, rows %d, %s in %.1f s",
        manifest.backup_id,
        result.database,
        result.tables,
        result.rows,
        human(result.raw_bytes),
        result.duration_seconds,
    )
    return result


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A restore of which nothing is missing, into a database that is there.

    :param entries: what is restored, in the order of restoring.
    :param keeps_extensions: whether the target has some of the archive's already.
    :param warnings: a sentence for each thing that is otherwise than in the source, as far as it is known.
    """

    entries: list[Entry]
    keeps_extensions: bool
    managed: UnprivilegedRestore | None
    warnings: list[str]

    @property
    def subscriptions(self) -> set[str]:
        """Names of those that are restored."""
        return {entry.name for entry in self.entries if entry.kind == "SUBSCRIPTION"}


def make_ready(
    request: RestoreRequest,
    target: InPlaceTarget | SwapTarget,
    archive: Path,
    toc: Toc,
    entries: Sequence[Entry],
    *,
    tools: ClientTools,
    given: Sequence[client_options.Given],
    like: Server | None,
    globals_script: str | None = None,
    has_globals: bool = False,
    lc_monetary: Literal["C"] | None = None,
    cancel: threading.Event,
    log: Log,
) -> Ready:
    """Make sure that the target has what a restore needs, then create its database, if need be.

    :param archive: a file, or a folder of which only toc.dat must be there. The folder around it is written to.
    :param toc: its table of contents.
    :param entries: those that are chosen, in the order of restoring.
    :param given: the user's options of pg_restore.
    :param like: the source, as far as it is known.
    :param globals_script: what to create roles and tablespaces from; None: nothing.
    :param has_globals: whether the backup holds such a script.
    :param lc_monetary: the locale that money is in; None for the server's own.
    :raises InputError: something is missing; nothing was touched.
    """
    arguments, clean = request.pg_restore_arguments, request.if_exists == "clean"
    stands = standing(entries, target, clean=clean, is_part=request.wanted.has_patterns)
    public = None if request.no_owner or "no-owner" in dict(given) else stands.public
    # Their versions are compared.
    needed = [*stands.entries, *stands.extensions]
    needs = requirements_of(archive, toc, needed, tools=tools, options=arguments)
    managed = None
    if request.managed_service:
        managed = UnprivilegedRestore(
            archive,
            toc,
            stands.entries,
            tools=tools,
            options=arguments,
            clean=clean,
            public=public,
            lc_monetary=lc_monetary,
            cancel=cancel,
            log=log,
        )
        managed.waive_requirements(needs, target.connection)
    warnings = preflight.prepare(
        target,
        needs,
        like=like,
        globals_script=globals_script,
        has_globals=has_globals,
        pre_restore_sql=request.pre_restore_sql,
        is_managed=managed is not None,
        log=log,
    )
    if public is not None and managed is None:
        # Before its privileges, as pg_restore does it.
        with target.params.connect() as connection:
            warnings += change_owner_of_public(connection, public, log)
    return Ready(
        entries=stands.entries, keeps_extensions=bool(stands.extensions), managed=managed, warnings=warnings
    )


@dataclass(frozen=True)
class _Filling:
    """What fills the target, once all is known and nothing is missing."""

    request: RestoreRequest
    archive: ArchiveFolder
    chosen: ChosenEntries
    ready: Ready
    target: InPlaceTarget | SwapTarget
    tools: ClientTools
    given: Sequence[client_options.Given]
    cancel: threading.Event
    stop: threading.Event
    log: Log

    def fill(self) -> None:
        """Restore all; in one transaction, where it must be all or nothing, and that is possible and wanted."""
        managed = self.ready.managed
        if self._is_atomic():
            restore_in_one_transaction(
                self.archive,
                self.ready.entries,
                managed or self._plain_definer(),
                self.target.params,
                self._loading_options,
                data_only=self.request.wanted.data_only,
                begin=lambda connection: self._run_as_login(connection, self.request.pre_restore_sql),
                before_data=lambda connection: self._run_as_login(connection, self.request.pre_data_sql),
                finish=self._finish_in_transaction,
                cancel=self.cancel,
                stop=self.stop,
            )
        else:
            self._fill_by_jobs(managed)
            finish(self.request, self.chosen.has_statistics, self.target.params, self.log)
        self.ready.warnings.extend(managed.warnings if managed is not None else [])

    def _run_as_login(self, connection: psycopg.Connection[tuple[Any, ...]], commands: Sequence[str]) -> None:
        """Run commands of the user's in the restore's session, but as in one of their own: not as its role."""
        if not commands:
            return
        role = self._loading_options.role
        if role is not None:
            # No `reset all`: what the commands have set is meant for the restore.
            connection.execute("reset role")
        run_sql(connection, commands)
        if role is not None:
            become(connection, role)

    def _fill_by_jobs(self, managed: UnprivilegedRestore | None) -> None:
        run_in(self.target.params, self.request.pre_restore_sql)
        if managed is not None:
            with self.target.params.connect() as connection:
                managed.define(connection)
            self._load(managed.entries_to_load, managed.options)
            with self.target.params.connect() as connection:
                managed.complete(connection)
                self._finish(connection)
        else:
            if self.request.if_exists == "clean":
                self._clean()
            self._load(self.ready.entries, self.request.pg_restore_arguments)
            if self.chosen.ties or self.ready.subscriptions:
                with self.target.params.connect() as connection:
                    self._finish(connection)

    def _load(self, entries: Sequence[Entry], pg_restore_options: Sequence[str]) -> None:
        """Restore entries that the target has not."""
        data_only = self.request.wanted.data_only
        pg_restore = PgRestore(
            self.tools,
            self.target.params,
            self.archive.workspace,
            archive_format="directory",
            # It disables triggers only then.
            options=[*pg_restore_options, *(["--data-only"] * data_only)],
            target_version=self.target.version,
            lc_monetary=self.archive.manifest.dump.lc_monetary,
            log=self.log,
        )
        Load(
            archive=self.archive,
            entries=entries,
            made=made_by(self.chosen.entries),
            target=self.target.params,
            pg_restore=pg_restore,
            options=self._loading_options,
            jobs=self.request.jobs,
            data_only=data_only,
            before_data=(
                (lambda: run_in(self.target.params, self.request.pre_data_sql))
                if self.request.pre_data_sql
                else None
            ),
            cancel=self.cancel,
            stop=self.stop,
            log=self.log,
        ).run()

    def _is_atomic(self) -> bool:
        if self.request.if_exists == "clean":
            what = "if_exists='clean'"
            check_encoding(self.archive.toc.encoding)
        elif self.request.wanted.data_only and psycopg_knows(self.archive.toc.encoding):
            what = "data_only"
        else:
            return False
        obstacles = {
            "pg_restore_options has --use-set-session-authorization": (
                "use-set-session-authorization" in dict(self.given)
            ),
        }
        return can_be_atomic(self.request, obstacles, self.log, what=what)

    def _plain_definer(self) -> PlainDefiner:
        clean = self.request.if_exists == "clean"
        script = self._definitions(self.ready.entries, *(CLEAN if clean else []))
        return PlainDefiner(script, self._cleaning(script) if clean else None, self.archive.toc.codec)

    def _cleaning(self, script: Sequence[Definition]) -> Cleaning:
        codec = self.archive.toc.codec
        return Cleaning(script[0], self.ready.entries, codec, self.log, warnings=self.ready.warnings)

    def _definitions(self, entries: Sequence[Entry], *further: str) -> list[Definition]:
        return definitions_of(
            self.archive.folder,
            entries,
            tools=self.tools,
            codec=self.archive.toc.codec,
            options=[*self.request.pg_restore_arguments, *further],
        )

    def _clean(self) -> None:
        cleaning = self._cleaning(self._definitions(self.ready.entries, *CLEAN))
        on_one_lane(
            self.target.params,
            self._loading_options,
            lambda session: cleaning.run_for_good(session.connection),
            cancel=self.cancel,
            stop=self.stop,
            cancelled=(
                f"the restore was stopped while it dropped what it restores; {self.target.params.database!r} is "
                "incomplete"
            ),
        )

    def _finish(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Create what ties the restored tables to others of the target, and detach subscriptions."""
        if self.chosen.ties:
            script = self._definitions(self.chosen.ties)
            self.ready.warnings.extend(tie(connection, script, self.archive.toc, self.log))
        self.ready.warnings.extend(detach_restored(connection, self.ready.subscriptions, self.log))

    def _finish_in_transaction(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._finish(connection)
        if self.request.post_restore_sql:
            # What was set for the restore is not for the user's commands.
            connection.execute("reset role")
            connection.execute("reset all")
            self.target.params.set_up(connection)
            run_sql(connection, self.request.post_restore_sql)

    @property
    def _loading_options(self) -> LoadingOptions:
        return loading_options(
            self.archive.toc.encoding,
            self.given,
            data_only=self.request.wanted.data_only,
            lc_monetary=self.archive.manifest.dump.lc_monetary,
        )
