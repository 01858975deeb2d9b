"""The run of pg_dump, held back while the spool is full."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from airflow_pg_s3.core.backup.abandoned_chunks import AbandonedChunks
from airflow_pg_s3.core.backup.archive_uploader import ArchiveUploader, UploadedArchive
from airflow_pg_s3.core.backup.chunk_cutter import average_bytes
from airflow_pg_s3.core.backup.chunk_store import ChunkStore
from airflow_pg_s3.core.backup.dump_plan import DumpPlan
from airflow_pg_s3.core.backup.dump_watch import DumpWatch
from airflow_pg_s3.core.backup.earlier_chunks import read_earlier
from airflow_pg_s3.core.backup.pg_dumpall import dump_command
from airflow_pg_s3.core.backup.spool import Spool
from airflow_pg_s3.core.backup.staged_backup import StagedBackup
from airflow_pg_s3.core.backup.standby import exports_wrong_snapshots
from airflow_pg_s3.core.errors import Cancelled, ClientProgramError
from airflow_pg_s3.core.postgres import client_options, server
from airflow_pg_s3.core.postgres.archive.toc import TOC
from airflow_pg_s3.core.postgres.client_program import ClientProgram, running
from airflow_pg_s3.core.postgres.connection import add_options
from airflow_pg_s3.core.reporting import Log, Progress, duration, human
from airflow_pg_s3.core.repository.codec import Encoder
from airflow_pg_s3.core.repository.manifest import GLOBALS
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.s3.upload import Uploader
from airflow_pg_s3.core.workspace.workspace import Workspace

_DECAY = 0.95
_LOOK_SECONDS = 0.005
_SERIALIZABLE = "serializable-deferrable"
# What a server says of a snapshot that is another's, before 17 and since.
_SNAPSHOT_OF_ANOTHER = re.compile(
    'invalid snapshot identifier|snapshot ".*" does not exist|import a snapshot from a different database'
)


class PgDump:
    """One run of pg_dump, and its members' way to S3."""

    def __init__(self, plan: DumpPlan, workspace: Workspace, cancel: threading.Event, log: Log) -> None:
        self.request = plan.request
        self.facts = plan.facts
        self.tools = plan.tools
        self.given = plan.given
        self.workspace = workspace
        self.toc = workspace.folder / "toc.copy"
        self.seconds = 0.0
        self._expected_bytes = plan.expected_bytes
        self._cancel = cancel
        self._log = log

    def ship(
        self,
        repository: Repository,
        staged: StagedBackup,
        encoder: Encoder,
        connection: psycopg.Connection[tuple[Any, ...]],
        abandoned: AbandonedChunks | None,
    ) -> UploadedArchive:
        """Run pg_dump and ship what it writes; returns when all of it is on S3.

        :param connection: to the database, for the snapshot.
        :param abandoned: what a backup that was killed has stored.
        """
        earlier = read_earlier(self.request, repository, self.facts.now, self._log)
        average = average_bytes(self.facts.size_bytes, earlier.average_bytes)
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
            ) as uploader,
            ArchiveUploader(
                spool,
                uploader,
                store := ChunkStore(
                    uploader,
                    encoder,
                    earlier.known,
                    folder=staged.folder,
                    abandoned=abandoned,
                    run_bytes=self.request.run_bytes,
                ),
                folder=staged.folder,
                average_bytes=average,
                jobs=self.request.jobs,
            ) as shipper,
            DumpWatch(connection, self.request.source.application_name("pg_dump")) as watch,
        ):
            progress = Progress(
                self._log,
                lambda seconds: self._line(spool, uploader, watch, seconds),
                lambda: (spool.shipped_bytes, self._expected_bytes),
            )
            # Held no longer than pg_dump needs it: meanwhile the server must keep old row versions.
            with self._snapshot(connection) as snapshot, self._pg_dump(spool, snapshot) as program:
                self._follow(program, spool, shipper, progress)
            if globals_file is not None:
                # Not before: pg_dump wants its folder empty.
                globals_file.rename(spool.archive / GLOBALS)
            shutil.copyfile(spool.archive / TOC, self.toc)
            shipper.finish(wait=lambda: self._wait(progress))
            self.seconds = progress.seconds
            progress.end()
        if not spool.can_punch_holes:
            self._log.warning("spool_dir's filesystem cannot punch holes: large tables stayed in it until shipped")
        return UploadedArchive(members=shipper.shipped, average_bytes=average, store=store)

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
            cancel=self._cancel,
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
            given = client_options.without(given, _SERIALIZABLE, tools=self.tools, program="pg_dump")
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
        file = self.workspace.folder / GLOBALS
        argv = dump_command(self.tools, self.request.source, self.facts.server.encoding, file)
        with running(argv, env=self._environment(), on_line=lambda line: self._log.info("%s", line)) as program:
            while program.poll() is None:
                self._raise_if_cancelled(_LOOK_SECONDS)
            self._raise_if_cancelled()
            program.check()
        return file

    def _environment(self) -> dict[str, str]:
        env = self.request.source.environment(self.workspace.folder, lc_monetary=self.facts.lc_monetary)
        return env | self.workspace.environment

    def _follow(self, program: ClientProgram, spool: Spool, shipper: ArchiveUploader, progress: Progress) -> None:
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

    def _line(self, spool: Spool, uploader: Uploader, watch: DumpWatch, seconds: float) -> str:
        raw = spool.shipped_bytes
        return "; ".join(
            [
                f"read {human(raw)}{_ahead(raw, self._expected_bytes, seconds)}",
                f"stored {human(uploader.stored_bytes)}",
                f"{human(raw / max(seconds, 0.001))}/s",
                f"{spool.members_finished} of {spool.members_seen} files done",
                f"spool {human(spool.used_bytes())}",
                *filter(None, [watch.said]),
            ]
        )


def _ahead(raw: int, expected: int | None, seconds: float) -> str:
    """What is still ahead, unless there is more than anybody expected."""
    if expected is None or raw >= expected:
        return ""
    left = f", {duration(seconds * (expected - raw) / raw)} left" if raw else ""
    return f" of about {human(expected)}{left}"


class Backpressure:
    """Keeps the spool within its limit by stopping pg_dump before it is full.

    pg_dump writes on between two looks at the spool, and a busy machine may make us look late: so it is stopped
    when three quarters of the limit are taken, or less if it has just written much from one look to the next.

    :param limit: bytes that the spool may take.
    """

    def __init__(self, program: ClientProgram, limit: int) -> None:
        self._program = program
        self._limit = limit
        self._used = 0
        self._growth = 0.0
        self._paused = False
        self.pauses = 0

    def apply(self, used: int) -> None:
        """Stop pg_dump or let it go on, given what the spool takes now. Called after each look."""
        self._growth = max(used - self._used, self._growth * _DECAY)
        self._used = used
        reserve = max(2 * self._growth, self._limit / 4)
        if not self._paused and used + reserve > self._limit:
            self._program.pause()
            self._paused = True
            self.pauses += 1
        elif self._paused and used < self._limit * 3 // 8:
            self._program.resume()
            self._paused = False
