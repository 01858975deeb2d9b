"""A source that pg_restore restores: an archive in format custom or tar, or a directory archive in a tar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import psycopg

from airflow_pg_s3.core.errors import ClientProgramError, ServerError
from airflow_pg_s3.core.postgres import client_options, client_versions
from airflow_pg_s3.core.postgres.archive.toc import TOC, Entry, Toc, read_folder
from airflow_pg_s3.core.postgres.client_versions import rejects_transaction_timeout
from airflow_pg_s3.core.postgres.databases import run_sql_in
from airflow_pg_s3.core.postgres.libpq_keywords import check_keywords
from airflow_pg_s3.core.restore.clean import CLEAN, LOCKS_ADVICE
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.external.completeness import whole_tar
from airflow_pg_s3.core.restore.external.contents import ArchiveSummary, read_beginning, summarize
from airflow_pg_s3.core.restore.external.decompress import Compression
from airflow_pg_s3.core.restore.external.detect import ExternalArchive, Format, archive_version, toc_in_tar
from airflow_pg_s3.core.restore.external.untar import unpack_directory
from airflow_pg_s3.core.restore.load.pg_restore import PgRestore
from airflow_pg_s3.core.restore.load.plan import Run, divide, rows_of_extensions
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive
from airflow_pg_s3.core.restore.request import RestoreRequest, check_name, refuse_loss
from airflow_pg_s3.core.restore.restore_steps import ArchiveRestore, plan_restore
from airflow_pg_s3.core.restore.source import Amounts
from airflow_pg_s3.core.restore.target import Target, refuse_older
from airflow_pg_s3.core.workspace.resources import require_free_space

_HEADER_BYTES = 16
_ATOMICALLY = [*CLEAN, "--single-transaction"]


class ArchiveSource:
    """An archive that pg_restore restores."""

    def __init__(self, external: ExternalArchive, context: RestoreContext) -> None:
        self._external = external
        self._context = context
        self.name = external.name
        self.description = external.description

    def plan(self, target: Target) -> ArchiveRestore:
        """Choose pg_restore and the entries; nothing is touched.

        :raises InputError: the request, the archive and the target do not fit together.
        :raises IntegrityError: the archive is damaged.
        :raises DataConflict: the target holds something that is in the way.
        """
        request, context = self._context.request, self._context
        is_directory = self._external.format is Format.DIRECTORY
        content = (_Unpacked if is_directory else _Streamed)(self._external, context)
        tools = client_versions.for_archive(
            archive_version(content.header()), target_version=target.version, search=request.client_path
        )
        check_keywords(target.params, tools.folder, tools.version)
        given = client_options.check(request.pg_restore_options, tools=tools, program="pg_restore")
        toc = content.read_toc()
        contents = summarize(content.path, toc, tools=tools, options=request.pg_restore_arguments)
        refuse_older(target.version, contents.version)
        check_name(request, toc.shown(toc.database), context.log)
        _refuse_hollow(request, contents)
        target.check()
        archive = OpenedArchive(
            path=content.path,
            toc=toc,
            entries=contents.entries,
            tools=tools,
            options=request.pg_restore_arguments,
            given=given,
            server=contents.server,
        )
        return plan_restore(archive, _PgRestoreLoader(content, self._external, contents), target, context)


class _Content(Protocol):
    """An archive's bytes in a form that pg_restore can read."""

    path: Path

    def header(self) -> bytes:
        """Return the archive's first bytes, or those of its toc.dat."""

    def read_toc(self) -> Toc:
        """Read the table of contents; `path` then holds it."""

    def for_pg_restore(self, jobs: int) -> tuple[Path | Iterator[bytes], int]:
        """Return what pg_restore is to read, and the number of jobs that it can use for it."""

    def size(self, streamed_bytes: int) -> int:
        """Return the archive's size in bytes, without compression around it."""


class _Unpacked:
    """A directory archive packed with tar, unpacked into the workspace."""

    def __init__(self, external: ExternalArchive, context: RestoreContext) -> None:
        self.path = context.workspace.make_folder("archive")
        if external.compression is Compression.NONE:
            require_free_space(self.path, external.stored_bytes, what=f"the archive {external.uri}")
        context.log.info("unpacking the directory archive in %s into spool_dir", external.uri)
        self._raw_bytes = unpack_directory(external.chunks, self.path)

    def header(self) -> bytes:
        with (self.path / TOC).open("rb") as file:
            return file.read(_HEADER_BYTES)

    def read_toc(self) -> Toc:
        return read_folder(self.path)

    def for_pg_restore(self, jobs: int) -> tuple[Path, int]:
        return self.path, jobs

    def size(self, streamed_bytes: int) -> int:
        return self._raw_bytes


class _Streamed:
    """An archive in format custom or tar; only its beginning is on disk."""

    def __init__(self, external: ExternalArchive, context: RestoreContext) -> None:
        self.path = context.workspace.folder / "archive.dump"
        self._external = external
        self._log = context.log

    def header(self) -> bytes:
        beginning = self._external.beginning
        return toc_in_tar(beginning) if self._external.format is Format.TAR else beginning

    def read_toc(self) -> Toc:
        return read_beginning(self._external.chunks, self.path)

    def for_pg_restore(self, jobs: int) -> tuple[Path | Iterator[bytes], int]:
        external = self._external
        if jobs > 1 and external.format is Format.CUSTOM and external.compression is Compression.NONE:
            self._download_rest()
            return self.path, jobs
        if jobs > 1:
            self._log.info("an archive of this form is restored by one job, as it streams")
        chunks = chain(_read(self.path), external.chunks)
        return whole_tar(chunks) if external.format is Format.TAR else chunks, 1

    def size(self, streamed_bytes: int) -> int:
        return streamed_bytes or self.path.stat().st_size

    def _download_rest(self) -> None:
        require_free_space(
            self.path.parent,
            self._external.stored_bytes - self.path.stat().st_size,
            what=f"the archive {self._external.uri}",
            instead="restore it with jobs=1, which streams it",
        )
        with self.path.open("ab") as rest:
            for chunk in self._external.chunks:
                rest.write(chunk)


class _PgRestoreLoader:
    """Loads an archive by pg_restore alone."""

    def __init__(self, content: _Content, external: ExternalArchive, contents: ArchiveSummary) -> None:
        self._content = content
        self._external = external
        self._contents = contents
        self._streamed_bytes = 0

    @property
    def amounts(self) -> Amounts:
        return Amounts(
            tables=self._contents.tables,
            rows=None,
            raw_bytes=self._content.size(self._streamed_bytes),
            read_bytes=self._external.stored_bytes,
        )

    def obstacles(self, restore: ArchiveRestore) -> Mapping[str, bool]:
        archive = restore.archive
        return {
            "managed_service runs some of the commands itself": restore.context.request.managed_service,
            "partitions have keys, which pg_restore --clean cannot drop at the first try": (
                self._contents.has_partition_keys
            ),
            "pg_restore is newer than the server, and sends a setting that the server does not know": (
                rejects_transaction_timeout(archive.tools, restore.target.version)
            ),
            "it holds subscriptions, which pg_restore --clean would drop with their slots": bool(
                archive.subscriptions
            ),
            "it holds rows of extensions that stay, which pg_restore --clean does not delete": (
                restore.keeps_extensions and bool(rows_of_extensions(archive.entries))
            ),
        }

    def load(self, restore: ArchiveRestore) -> None:
        jobs = restore.context.request.jobs
        self._run(restore, restore.definer.entries_to_load, restore.definer.options, jobs=jobs)

    def restore_in_one_transaction(self, restore: ArchiveRestore) -> None:
        """Let pg_restore drop and restore in one transaction, after a rehearsal of the drops."""
        request = restore.context.request

        def rehearse(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
            with connection.transaction(force_rollback=True):
                restore.run_as_login(connection, request.pre_restore_sql)
                restore.definer.define(connection)

        restore.in_session(rehearse)
        # These run in another session: pg_restore's own takes no commands.
        run_sql_in(restore.target.params, request.pre_restore_sql)
        self._run(restore, restore.archive.entries, [*restore.archive.options, *_ATOMICALLY], jobs=1)
        restore.finish()

    def _run(
        self, restore: ArchiveRestore, entries: Sequence[Entry], options: Sequence[str], *, jobs: int
    ) -> None:
        source, jobs = self._content.for_pg_restore(jobs)
        pg_restore = PgRestore(
            restore.archive,
            restore.target,
            restore.context,
            archive_format=self._external.format.value,
            options=options,
        )
        with _advice_on_locks():
            # Without entries there is one run all the same, so that the stream is read to its end.
            for run in divide(entries, jobs=jobs) or [Run(entries=[])]:
                self._streamed_bytes += pg_restore.run(
                    source,
                    jobs=1 if run.is_serial else jobs,
                    dump_ids=[entry.dump_id for entry in run.entries],
                    cancel=restore.context.cancel,
                )


def _refuse_hollow(request: RestoreRequest, contents: ArchiveSummary) -> None:
    kinds = {entry.kind for entry in contents.entries}
    if "TABLE" in kinds and "TABLE DATA" not in kinds:
        # pg_dump writes a TABLE DATA entry for each table, even for an empty one.
        refuse_loss(request, "holds tables and no rows, as pg_dump --schema-only leaves them out")


@contextmanager
def _advice_on_locks() -> Iterator[None]:
    try:
        yield
    except ClientProgramError as error:
        if "max_locks_per_transaction" not in error.stderr_tail:
            raise
        raise ServerError(f"{error}\n{LOCKS_ADVICE}") from error


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(1 << 20):
            yield chunk
