"""The restore: definitions by pg_restore, rows by COPY straight from S3, with no copy of the backup on disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from airflow_pg_s3.core import clients, options, preflight
from airflow_pg_s3.core.boundary import one_error
from airflow_pg_s3.core.choice import Choice, Wanted, choose
from airflow_pg_s3.core.clean import CLEAN, Cleaning, check_encoding
from airflow_pg_s3.core.codec import Decoder
from airflow_pg_s3.core.definitions import Definition, definitions_of
from airflow_pg_s3.core.download import Downloader
from airflow_pg_s3.core.encodings import psycopg_knows
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.globals import GLOBALS, read_script
from airflow_pg_s3.core.keywords import check_keywords
from airflow_pg_s3.core.libpq import ConnectionParameters
from airflow_pg_s3.core.load import Load, on_one_lane
from airflow_pg_s3.core.loading_session import LoadingOptions, loading_options
from airflow_pg_s3.core.managed import ManagedService
from airflow_pg_s3.core.manifest import Manifest, Server
from airflow_pg_s3.core.needs import needs_of
from airflow_pg_s3.core.one_transaction import PlainDefiner, restore_in_one_transaction
from airflow_pg_s3.core.pg_restore import PgRestore
from airflow_pg_s3.core.plan import made_by
from airflow_pg_s3.core.progress import Log, human
from airflow_pg_s3.core.replacement import Replacement
from airflow_pg_s3.core.repository import StoredManifest, read_manifest
from airflow_pg_s3.core.s3 import parse_uri
from airflow_pg_s3.core.served import ServedArchive
from airflow_pg_s3.core.spool import TOC
from airflow_pg_s3.core.standing import change_owner_of_public, standing
from airflow_pg_s3.core.subscriptions import detach_restored
from airflow_pg_s3.core.target import Target, analyze, refuse_older, run_sql
from airflow_pg_s3.core.thaw import refuse_archived
from airflow_pg_s3.core.ties import tie
from airflow_pg_s3.core.toc import Entry, Toc
from airflow_pg_s3.core.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_pg_s3.core.clients import ClientTools


IfExists = Literal["fail", "clean", "replace"]


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """What to restore, where, and how.

    :param backup: URI of the manifest.
    :param target: the database to restore into; created like the source's if it does not exist.
    :param if_exists: ``fail`` refuses a database that holds anything; ``clean`` drops what the backup also holds;
        ``replace`` restores beside the database and then swaps their names.
    :param is_target_named: the target's name was given for this restore, not only found in a connection: it may be
        another one than that of the database that was backed up.
    :param keep_previous: with ``replace``, keep the old database under another name.
    :param jobs: parallel pg_restore jobs, each with a connection.
    :param single_transaction: let ``clean`` drop and restore, and data alone come, in one transaction, which takes
        one connection alone; if False, a failure leaves the target with a part of what is restored.
    :param create_database: whether a database that does not exist is created.
    :param wanted: what of the backup to restore.
    :param no_owner: let everything belong to the restoring user.
    :param no_privileges: leave out GRANT and REVOKE.
    :param restore_globals: first create the roles and tablespaces that the backup holds and the server has not.
    :param allow_partial: let ``replace`` and ``clean`` lose what a backup of a part does not bring back.
    :param managed_service: leave out what the user, who is no superuser, may not create, and say so.
    :param pre_restore_sql: commands to run in the target, in one transaction, before anything is dropped or
        restored; with a ``clean`` that is one transaction, within that.
    :param pre_data_sql: the same between definitions and rows.
    :param post_restore_sql: commands to run in the restored database, in one transaction.
    :param identities: age identities that may open an encrypted backup.
    :param allow_unsafe_psql: replay plain dumps also with a psql that a dump can make run commands.
    """

    backup: str
    target: ConnectionParameters
    if_exists: IfExists = "fail"
    is_target_named: bool = True
    keep_previous: bool = True
    jobs: int = 2
    single_transaction: bool = True
    create_database: bool = True
    wanted: Wanted = field(default_factory=Wanted)
    pg_restore_options: Sequence[str] = ()
    no_owner: bool = False
    no_privileges: bool = False
    restore_globals: bool = False
    allow_partial: bool = False
    managed_service: bool = False
    pre_restore_sql: Sequence[str] = ()
    pre_data_sql: Sequence[str] = ()
    post_restore_sql: Sequence[str] = ()
    spool_dir: str | None = None
    client_path: Sequence[str] = ()
    identities: Sequence[str] = ()
    allow_unsafe_psql: bool = False

    @property
    def pg_restore_arguments(self) -> list[str]:
        """Options of pg_restore that the user has chosen, in either way."""
        arguments = ["--no-owner"] * self.no_owner + ["--no-privileges"] * self.no_privileges
        return [*self.pg_restore_options, *arguments]


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


@one_error
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
    has_globals = any(member.name == GLOBALS for member in manifest.members)
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
        archive = ServedArchive(manifest, base, downloader, decoder, workspace)
        archive.fetch([TOC, GLOBALS] if request.restore_globals else [TOC])
        with open_target(request, cancel, log) as target:
            refuse_older(target.version, manifest.server.version)
            tools = clients.for_restore(
                dumped_by=manifest.dump.pg_dump_version,
                target_version=target.version,
                search=request.client_path,
            )
            check_keywords(target.params, tools.folder, tools.version)
            given = options.check(request.pg_restore_options, tools=tools, program="pg_restore")
            chosen = choose(
                archive,
                tools=tools,
                wanted=request.wanted,
                options=request.pg_restore_arguments,
                # What the selected objects need can only be missing where nothing is dropped before.
                exists=(lambda entry: True) if request.if_exists == "clean" else target.holds,
            )
            if request.wanted.data_only and isinstance(target, Target):
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
            target.take_over()
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
    managed: ManagedService | None
    warnings: list[str]

    @property
    def subscriptions(self) -> set[str]:
        """Names of those that are restored."""
        return {entry.name for entry in self.entries if entry.kind == "SUBSCRIPTION"}


def make_ready(
    request: RestoreRequest,
    target: Target | Replacement,
    archive: Path,
    toc: Toc,
    entries: Sequence[Entry],
    *,
    tools: ClientTools,
    given: Sequence[options.Given],
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
    needs = needs_of(archive, toc, needed, tools=tools, options=arguments)
    managed = None
    if request.managed_service:
        managed = ManagedService(
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
        managed.excuse(needs, target.connection)
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
    archive: ServedArchive
    chosen: Choice
    ready: Ready
    target: Target | Replacement
    tools: ClientTools
    given: Sequence[options.Given]
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
                begin=lambda connection: run_sql(connection, self.request.pre_restore_sql),
                before_data=lambda connection: run_sql(connection, self.request.pre_data_sql),
                finish=self._finish_in_transaction,
                cancel=self.cancel,
                stop=self.stop,
            )
        else:
            self._fill_by_jobs(managed)
            finish(self.request, self.chosen.has_statistics, self.target.params, self.log)
        self.ready.warnings.extend(managed.warnings if managed is not None else [])

    def _fill_by_jobs(self, managed: ManagedService | None) -> None:
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


def open_target(request: RestoreRequest, cancel: threading.Event, log: Log) -> Target | Replacement:
    """Where to restore to, as `if_exists` says."""
    if request.if_exists == "replace":
        return Replacement(
            request.target,
            jobs=request.jobs,
            keep_previous=request.keep_previous,
            managed_service=request.managed_service,
            cancel=cancel,
            log=log,
        )
    return Target(
        request.target,
        must_be_empty=request.if_exists == "fail",
        may_create=request.create_database,
    )


def can_be_atomic(
    request: RestoreRequest, obstacles: Mapping[str, bool], log: Log, *, what: str = "if_exists='clean'"
) -> bool:
    """Whether a restore that must not be half done can be one transaction; warn if not.

    :param obstacles: what stands in the way, where it does.
    :param what: such a restore, for people.
    """
    obstacles = {"single_transaction=False says": not request.single_transaction, **obstacles}
    reasons = [reason for reason, applies in obstacles.items() if applies]
    if reasons:
        log.warning(
            "%s works without a transaction, as %s: if it fails, %s is neither old nor new",
            what,
            "; ".join(reasons),
            request.target.database,
        )
    elif request.jobs > 1:
        log.info(
            "%s works in one transaction, and so over one connection; single_transaction=False takes jobs=%d",
            what,
            request.jobs,
        )
    return not reasons


def run_in(target: ConnectionParameters, commands: Sequence[str]) -> None:
    """Run commands of the user's, if there are any, in a session of their own."""
    if commands:
        with target.connect() as connection:
            run_sql(connection, commands)


def finish(request: RestoreRequest, has_statistics: bool, target: ConnectionParameters, log: Log) -> None:
    """Run what belongs into the database before anybody uses it.

    :param has_statistics: whether the planner's statistics came with the data.
    """
    to_analyze = request.if_exists == "replace" and not has_statistics
    if not request.post_restore_sql and not to_analyze:
        return
    with target.connect() as connection:
        if request.post_restore_sql:
            run_sql(connection, request.post_restore_sql)
        if to_analyze:
            analyze(connection, log)


def check_request(request: RestoreRequest) -> None:
    """Refuse what contradicts itself.

    :raises InputError: naming the arguments.
    """
    if request.jobs < 1:
        raise InputError(f"jobs must be at least 1, not {request.jobs}")
    if request.if_exists not in ("fail", "clean", "replace"):
        raise InputError(f"if_exists must be 'fail', 'clean' or 'replace', not {request.if_exists!r}")
    wanted = request.wanted
    if request.if_exists == "replace" and wanted.is_part and not (wanted.only_excludes and request.allow_partial):
        raise InputError(
            'if_exists="replace" would leave nothing but the selection: restore all, choose another, or give '
            "exclude_tables alone with allow_partial=True"
        )
    if request.if_exists == "clean" and wanted.data_only:
        raise InputError('if_exists="clean" drops tables, and data_only does not create them: give one of the two')
    if wanted.schema_only and wanted.data_only:
        raise InputError("schema_only and data_only together leave nothing: give one of the two")
    for parameter in ("tables", "schemas", "exclude_tables"):
        if isinstance(getattr(wanted, parameter), str):
            raise InputError(f"{parameter} must be a list, not the string {getattr(wanted, parameter)!r}")


def check_name(request: RestoreRequest, source: str, log: Log) -> list[str]:
    """Say that the backup is of a database with another name than the target's, unless that name was given.

    :param source: name of the database that was backed up.
    :return: a sentence for `RestoreResult.warnings`, or none.
    :raises InputError: the target would be replaced.
    """
    target = request.target.database
    if request.is_target_named or source == target:
        return []
    sentence = f"the backup is of the database {source!r}, and is restored into {target!r}, as the connection says"
    if request.if_exists == "replace":
        raise InputError(
            f"{request.backup} is a backup of the database {source!r}, and the connection's is {target!r}, which "
            f"would be replaced by another one: if that is meant, give database={target!r}"
        )
    log.warning("%s", sentence)
    return [sentence]


def refuse_partial(request: RestoreRequest, manifest: Manifest) -> None:
    """Refuse a backup that leaves the target without what it had, unless that is meant.

    :raises InputError: naming the options of pg_dump that left something out.
    """
    lacking = manifest.dump.left_out_by
    if request.if_exists == "clean":
        # Which drops no more than the backup holds.
        lacking = [option for option in lacking if option.removeprefix("--") in options.PG_DUMP_HOLLOW]
    if lacking:
        refuse_loss(request, f"lacks what {', '.join(lacking)} left out of it")


def refuse_loss(request: RestoreRequest, reason: str) -> None:
    """Refuse to lose what the target holds and the backup does not, unless that is meant.

    :param reason: what of the backup tells that it is not whole.
    :raises InputError: with the reason.
    """
    if request.if_exists != "fail" and not request.allow_partial:
        raise InputError(
            f"{request.backup} {reason}: with if_exists={request.if_exists!r} this would be gone from "
            f"{request.target.database}. Give allow_partial=True if that is meant, or restore into a database of "
            "its own"
        )
