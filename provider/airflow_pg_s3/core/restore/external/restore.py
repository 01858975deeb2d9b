"""The restore of an archive that another tool has put on S3: pg_dump's formats, bare or in gzip or zstd."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_pg_s3.core.errors import Cancelled, ClientProgramError, InputError, ServerError
from airflow_pg_s3.core.postgres import client_options, client_tools
from airflow_pg_s3.core.postgres.archive.definitions import definitions_of
from airflow_pg_s3.core.postgres.archive.toc import Toc, read_folder
from airflow_pg_s3.core.postgres.client_tools import rejects_transaction_timeout
from airflow_pg_s3.core.postgres.databases import run_sql
from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.postgres.libpq_keywords import check_keywords
from airflow_pg_s3.core.postgres.subscriptions import detach_restored, subscriptions_of
from airflow_pg_s3.core.reporting import Log, human
from airflow_pg_s3.core.restore.clean import CLEAN, LOCKS_ADVICE, Cleaning, check_encoding
from airflow_pg_s3.core.restore.database_swap import SwapTarget, open_target
from airflow_pg_s3.core.restore.existing_objects import has_public
from airflow_pg_s3.core.restore.external.completeness import whole_tar
from airflow_pg_s3.core.restore.external.contents import ArchiveSummary, read_beginning, summarize
from airflow_pg_s3.core.restore.external.decompress import Compression
from airflow_pg_s3.core.restore.external.detect import (
    LOOK_BYTES,
    ExternalArchive,
    Format,
    archive_version,
    find_object,
    toc_in_tar,
)
from airflow_pg_s3.core.restore.external.plain_script import Script
from airflow_pg_s3.core.restore.external.psql import choose_psql
from airflow_pg_s3.core.restore.external.untar import unpack_directory
from airflow_pg_s3.core.restore.load.copy_session import LoadingOptions, LoadingSession
from airflow_pg_s3.core.restore.load.load import on_one_lane
from airflow_pg_s3.core.restore.load.pg_restore import PgRestore
from airflow_pg_s3.core.restore.load.plan import Run, divide, rows_of_extensions
from airflow_pg_s3.core.restore.managed_service import UnprivilegedRestore
from airflow_pg_s3.core.restore.request import (
    RestoreRequest,
    can_be_atomic,
    check_name,
    check_request,
    refuse_loss,
)
from airflow_pg_s3.core.restore.restore import Ready, make_ready
from airflow_pg_s3.core.restore.target import InPlaceTarget, finish, refuse_older, run_in
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.requests import parse_uri
from airflow_pg_s3.core.workspace.resources import require_free_space
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from airflow_pg_s3.core.postgres.client_tools import ClientTools


_DOWNLOADS = 4
_ATOMICALLY = [*CLEAN, "--single-transaction"]


@dataclass(frozen=True, kw_only=True)
class ExternalResult:
    """A finished restore of a foreign archive.

    :param name: the last part of the archive's key.
    :param warnings: what is otherwise than in the source, a sentence each.
    :param tables: tables whose data was restored; None for a plain dump, which does not say.
    :param raw_bytes: bytes without compression around them that pg_restore or psql was given.
    :param previous_database: name of the database that was replaced, if it is kept.
    """

    name: str
    warnings: list[str]
    database: str
    previous_database: str | None
    tables: int | None
    raw_bytes: int
    duration_seconds: float


@translate_errors
def restore_external(
    request: RestoreRequest, client: S3Client, *, cancel: threading.Event, log: Log
) -> ExternalResult:
    """Restore an archive of pg_dump into a database.

    Formats custom and tar and plain dumps stream. A custom one without compression around it is downloaded first
    if more than one job is to restore it; a directory in a tar always is.

    :param client: boto3 S3 client.
    :param cancel: set from anywhere to stop.
    :raises InputError: the request cannot work; nothing was touched.
    :raises DataConflict: the target holds something; nothing was touched.
    :raises IntegrityError: the archive is damaged or ends too early.
    :raises ClientProgramError: pg_restore or psql failed.
    :raises StorageError: S3 failed.
    :raises ServerError: PostgreSQL failed.
    :raises Cancelled: told to stop.
    """
    check_request(request)
    if request.wanted.is_part:
        raise InputError(
            "a part can be selected only of backups that PgS3BackupOperator has made: restore all of this archive "
            "into a database of its own"
        )
    if request.restore_globals:
        raise InputError("restore_globals=True, but this archive holds no globals: only backups of ours do")
    if request.pre_data_sql:
        raise InputError(
            "pre_data_sql runs only with backups that PgS3BackupOperator has made: leave it out, or restore this "
            "archive by hand, see docs/hard-cases.md"
        )
    bucket, key = parse_uri(request.backup, parameter="backup")
    stored = find_object(client, request.backup)
    began = time.monotonic()
    stop = threading.Event()
    with (
        Workspace(request.spool_dir) as workspace,
        Downloader(client, bucket, cancel=stop, threads=_DOWNLOADS) as downloader,
        open_target(request, cancel, log) as target,
    ):
        archive = ExternalArchive(request.backup, stored, _until(cancel, downloader.stream([stored])))
        restoring = _Restoring(request, archive, target, workspace, cancel, log)
        with archive.about_it():
            tables, raw_bytes = restoring.run()
        target.promote()
    result = ExternalResult(
        name=key.rpartition("/")[2],
        warnings=[*restoring.warnings, *target.warnings],
        database=request.target.database,
        previous_database=target.previous,
        tables=tables,
        raw_bytes=raw_bytes,
        duration_seconds=round(time.monotonic() - began, 3),
    )
    log.info(
        "restored %s into %s: %s in %.1f s",
        request.backup,
        result.database,
        human(result.raw_bytes),
        result.duration_seconds,
    )
    return result


@dataclass
class _Restoring:
    request: RestoreRequest
    archive: ExternalArchive
    target: InPlaceTarget | SwapTarget
    workspace: Workspace
    cancel: threading.Event
    log: Log
    warnings: list[str] = field(default_factory=list)
    given: list[client_options.Given] = field(default_factory=list)
    ready: Ready = field(init=False)
    is_atomic: bool = False

    def run(self) -> tuple[int | None, int]:
        """Fill the target; return the number of tables, if it is known, and of bytes."""
        if self.archive.format is Format.PLAIN:
            return None, self._replay()
        if self.archive.format is Format.DIRECTORY:
            return self._restore_directory()
        return self._restore_stream()

    def _replay(self) -> int:
        if self.request.if_exists == "clean":
            raise InputError(
                'a plain dump cannot be restored with if_exists="clean", as what it drops was decided when it was '
                'made: give if_exists="replace", or an empty database'
            )
        if self.request.pg_restore_options:
            raise InputError("pg_restore_options have no effect on a plain dump, which psql replays: remove them")
        for argument in ("no_owner", "no_privileges", "managed_service"):
            if getattr(self.request, argument):
                raise InputError(
                    f"{argument}=True has no effect on a plain dump, which psql replays as it is: leave it "
                    "out, and create the roles that the dump names"
                )
        psql = choose_psql(self.request.client_path, allow_unsafe=self.request.allow_unsafe_psql)
        check_keywords(self.target.params, Path(psql.path).parent, psql.version)
        script = Script(self.archive.beginning[:LOOK_BYTES], self.archive.chunks)
        if script.version is not None:
            refuse_older(self.target.version, script.version)
        self.target.check()
        self.target.prepare(None)
        self._announce(f"psql {psql.version}")
        run_in(self.target.params, self.request.pre_restore_sql)
        raw_bytes = script.replay(
            psql,
            self.target.params,
            target_version=self.target.version,
            has_public=has_public(self.target),
            workspace=self.workspace,
            cancel=self.cancel,
            log=self.log,
        )
        with self.target.params.connect() as connection:
            names = {each.name for each in subscriptions_of(connection)}  # the database was empty
            self.warnings += detach_restored(connection, names, self.log)
        finish(self.request, False, self.target.params, self.log)
        return raw_bytes

    def _restore_directory(self) -> tuple[int, int]:
        folder = self.workspace.make_folder("archive")
        if self.archive.compression is Compression.NONE:
            require_free_space(folder, self.archive.stored_bytes, what=f"the archive {self.archive.uri}")
        self.log.info("unpacking the directory archive in %s into spool_dir", self.archive.uri)
        raw_bytes = unpack_directory(self.archive.chunks, folder)
        toc = read_folder(folder)
        with (folder / "toc.dat").open("rb") as file:
            tools = self._tools(file.read(16))
        contents = self._prepare(folder, toc, tools)
        self._load(tools, contents, folder, jobs=self._jobs)
        return contents.tables, raw_bytes

    def _restore_stream(self) -> tuple[int, int]:
        archive, form = self.archive, self.archive.format
        is_tar = form is Format.TAR
        tools = self._tools(toc_in_tar(archive.beginning) if is_tar else archive.beginning)
        file = self.workspace.folder / "archive.dump"
        toc = read_beginning(archive.chunks, file)
        contents = self._prepare(file, toc, tools)
        if form is Format.CUSTOM and self._jobs > 1 and archive.compression is Compression.NONE:
            self._download_rest(file)
            self._load(tools, contents, file, jobs=self._jobs)
            return contents.tables, file.stat().st_size
        if self._jobs > 1:
            self.log.info("an archive of this form is restored by one job, as it streams")
        chunks = chain(_read(file), archive.chunks)
        raw_bytes = self._load(tools, contents, file, jobs=1, stream=whole_tar(chunks) if is_tar else chunks)
        return contents.tables, raw_bytes

    def _tools(self, toc: bytes) -> ClientTools:
        tools = client_tools.for_archive(
            archive_version(toc), target_version=self.target.version, search=self.request.client_path
        )
        check_keywords(self.target.params, tools.folder, tools.version)
        self.given = client_options.check(self.request.pg_restore_options, tools=tools, program="pg_restore")
        return tools

    def _prepare(self, archive: Path, toc: Toc, tools: ClientTools) -> ArchiveSummary:
        contents = summarize(archive, toc, tools=tools, options=self.request.pg_restore_arguments)
        refuse_older(self.target.version, contents.version)
        self.warnings += check_name(self.request, toc.shown(toc.database), self.log)
        kinds = {entry.kind for entry in contents.entries}
        if "TABLE" in kinds and "TABLE DATA" not in kinds:
            # pg_dump writes data for each table, also for an empty one.
            refuse_loss(self.request, "holds tables and no rows, as pg_dump --schema-only leaves them out")
        self.target.check()
        self.ready = make_ready(
            self.request,
            self.target,
            archive,
            toc,
            contents.entries,
            tools=tools,
            given=self.given,
            like=contents.server,
            cancel=self.cancel,
            log=self.log,
        )
        contents = replace(contents, entries=self.ready.entries)
        self.is_atomic = self._can_be_atomic(tools, contents)
        return contents

    def _can_be_atomic(self, tools: ClientTools, contents: ArchiveSummary) -> bool:
        obstacles = {
            "managed_service runs some of the commands itself": self.request.managed_service,
            "partitions have keys, which pg_restore --clean cannot drop at the first try": (
                contents.has_partition_keys
            ),
            "pg_restore is newer than the server, and sends a setting that it does not know": (
                rejects_transaction_timeout(tools, self.target.version)
            ),
            "it holds subscriptions, which pg_restore --clean would drop with their slots": bool(
                self.ready.subscriptions
            ),
            "it holds rows of extensions that stay, which pg_restore --clean does not delete": (
                self.ready.keeps_extensions and bool(rows_of_extensions(contents.entries))
            ),
        }
        return self.request.if_exists == "clean" and can_be_atomic(self.request, obstacles, self.log)

    @property
    def _jobs(self) -> int:
        return 1 if self.is_atomic else self.request.jobs

    def _download_rest(self, file: Path) -> None:
        require_free_space(
            file.parent,
            self.archive.stored_bytes - file.stat().st_size,
            what=f"the archive {self.archive.uri}",
            instead="restore it with jobs=1, which streams it",
        )
        with file.open("ab") as rest:
            for chunk in self.archive.chunks:
                rest.write(chunk)

    def _load(
        self,
        tools: ClientTools,
        contents: ArchiveSummary,
        archive: Path,
        *,
        jobs: int,
        stream: Iterator[bytes] | None = None,
    ) -> int:
        """Run pg_restore on an archive, or on the stream whose beginning it is."""
        self._announce(f"pg_restore {tools.version}")
        managed = self.ready.managed
        entries, arguments = contents.entries, self.request.pg_restore_arguments
        if managed is not None:
            self._define(managed)
            entries, arguments = managed.entries_to_load, managed.options
        elif self.request.if_exists == "clean":
            self._drop(archive, contents, tools)
        else:
            run_in(self.target.params, self.request.pre_restore_sql)
        pg_restore = PgRestore(
            tools,
            self.target.params,
            self.workspace,
            archive_format=self.archive.format.value,
            options=[*arguments, *(_ATOMICALLY if self.is_atomic else [])],
            target_version=self.target.version,
            log=self.log,
        )
        raw_bytes = 0
        with _advice_on_locks():
            # Also without entries: so the stream is read to its end.
            for run in divide(entries, jobs=jobs) or [Run(entries=[])]:
                raw_bytes += pg_restore.run(
                    archive if stream is None else stream,
                    jobs=1 if run.is_serial else jobs,
                    dump_ids=[entry.dump_id for entry in run.entries],
                    cancel=self.cancel,
                )
        if managed is not None or self.ready.subscriptions:
            with self.target.params.connect() as connection:
                if managed is not None:
                    managed.complete(connection)
                    self.warnings += managed.warnings
                self.warnings += detach_restored(connection, self.ready.subscriptions, self.log)
        self.warnings += self.ready.warnings
        finish(self.request, contents.has_statistics, self.target.params, self.log)
        return raw_bytes

    def _define(self, managed: UnprivilegedRestore) -> None:
        if self.request.if_exists == "clean" and self.request.single_transaction:
            with self.target.params.connect() as connection, connection.transaction():
                run_sql(connection, self.request.pre_restore_sql)
                managed.define(connection)
            return
        run_in(self.target.params, self.request.pre_restore_sql)
        with self.target.params.connect() as connection:
            managed.define(connection)

    def _drop(self, archive: Path, contents: ArchiveSummary, tools: ClientTools) -> None:
        """Drop what the archive holds; or see that pg_restore can, if it does that in its own transaction.

        The user's commands come before and, unless no transaction is wanted, have happened only if it is dropped.
        """
        check_encoding(contents.toc.encoding)
        script = definitions_of(
            archive,
            contents.entries,
            tools=tools,
            codec=contents.codec,
            options=[*self.request.pg_restore_arguments, *CLEAN],
        )
        cleaning = Cleaning(script[0], contents.entries, contents.codec, self.log, warnings=self.warnings)

        def work(session: LoadingSession) -> None:
            if not self.request.single_transaction:
                run_in(self.target.params, self.request.pre_restore_sql)
                cleaning.run_for_good(session.connection)
                return
            with session.connection.transaction(force_rollback=self.is_atomic):
                run_sql(session.connection, self.request.pre_restore_sql)
                cleaning.run(session.connection)

        database = self.target.params.database
        on_one_lane(
            self.target.params,
            LoadingOptions(encoding=contents.toc.encoding),
            work,
            cancel=self.cancel,
            stop=threading.Event(),
            cancelled=f"the restore was stopped while it dropped what it restores; {database!r} is incomplete",
        )
        if self.is_atomic:
            # pg_restore has a session of its own, which takes no commands.
            run_in(self.target.params, self.request.pre_restore_sql)

    def _announce(self, program: str) -> None:
        archive = self.archive
        around = "" if archive.compression is Compression.NONE else f" in {archive.compression.value}"
        self.log.info(
            "restoring %s (%s, format %s%s) into %s (PostgreSQL %d) with %s",
            archive.uri,
            human(archive.stored_bytes),
            archive.format.value,
            around,
            self.target.params.endpoint,
            self.target.version // 10000,
            program,
        )


@contextmanager
def _advice_on_locks() -> Iterator[None]:
    try:
        yield
    except ClientProgramError as error:
        if "max_locks_per_transaction" not in error.stderr_tail:
            raise
        raise ServerError(f"{error}\n{LOCKS_ADVICE}") from error


def _until(cancel: threading.Event, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if cancel.is_set():
            raise Cancelled("stopped while downloading")
        yield chunk


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(1 << 20):
            yield chunk
