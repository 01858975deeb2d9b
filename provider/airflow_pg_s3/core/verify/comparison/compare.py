"""The comparison of a restored database with its backup."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import psycopg

from airflow_pg_s3.core.errors import InputError, ServerError
from airflow_pg_s3.core.postgres.archive.schema_script import Entry
from airflow_pg_s3.core.postgres.archive.toc import TOC, read_toc
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.errors import server_error
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.repository.verification_record import Difference, TableResult
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.load import grouped
from airflow_pg_s3.core.restore.selection import loose_ends
from airflow_pg_s3.core.verify.comparison import large_objects, sequences_and_extensions
from airflow_pg_s3.core.verify.comparison.copy_reader import CopyReader
from airflow_pg_s3.core.verify.comparison.schema_diff import compare_schemas, schemas_for_extensions
from airflow_pg_s3.core.verify.comparison.schema_reader import SchemaReader
from airflow_pg_s3.core.verify.comparison.table_catalog import read_tables
from airflow_pg_s3.core.verify.comparison.tables import TableComparison
from airflow_pg_s3.core.verify.comparison.workers import Found, Work, do_all


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a comparison.

    :param tables: one result for each table member of the manifest, in its order.
    :param differences: everything that differs from the source; empty if all is equal.
    :param warnings: sentences about what could not be compared, and why.
    """

    tables: list[TableResult]
    differences: list[Difference]
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class RestoredDatabase:
    """A restored database.

    :param tools: the client programs that restored it.
    :param with_roles: whether owners, privileges and tablespaces were restored as well.
    """

    params: ConnectionParameters
    tools: ClientTools
    with_roles: bool


def compare(
    archive: ArchiveFolder,
    restored: RestoredDatabase,
    *,
    jobs: int,
    locate: bool,
    cancel: threading.Event,
    log: Log,
) -> Comparison:
    """Compare a restored database with its backup. Nothing in the database is changed.

    :param archive: the archive, with toc.dat fetched.
    :param jobs: number of tables read at the same time, each over a connection; large ones over a second one,
        psql's.
    :param locate: find the first differing row of tables that differ, for which their data is read from S3.
    :param cancel: set from any thread to stop the comparison.
    :raises InputError: connecting to the database fails.
    :raises PgS3Error: the database, a program or S3 failed, so that nothing is known.
    :raises Cancelled: the comparison was told to stop.
    """
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    manifest, target = archive.manifest, restored.params
    folder = archive.workspace.folder
    env = target.environment(folder, lc_monetary=manifest.dump.lc_monetary) | archive.workspace.environment
    schemas = SchemaReader(
        archive, target, tools=restored.tools, env=env, with_roles=restored.with_roles, cancel=cancel
    )

    def open_reader() -> CopyReader:
        return CopyReader(manifest, target, tools=restored.tools, env=env)

    try:
        with contextlib.closing(open_reader()) as reader:
            work = _work(archive, schemas, reader, with_roles=restored.with_roles, locate=locate)
        found = do_all(work, open_reader, jobs=jobs, cancel=cancel, log=log)
    except psycopg.Error as error:
        message = f"{target.endpoint} cannot be compared: {server_error(error)}"
        raise ServerError(message).with_traceback(error.__traceback__) from None
    in_order = [found.tables[member.name] for member in archive.members.values() if member.table is not None]
    return Comparison(tables=in_order, differences=found.differences, warnings=found.warnings)


def _work(
    archive: ArchiveFolder, schemas: SchemaReader, reader: CopyReader, *, with_roles: bool, locate: bool
) -> list[Work]:
    """Return the pieces of the comparison, in the order in which differences are reported."""
    server = archive.manifest.server
    toc = read_toc(archive.folder / TOC)
    # The restore has left these out with a warning each if what they link to is not there.
    may_lack = {Entry.of(entry) for entry in loose_ends(toc)} if archive.manifest.dump.left_out_by else set()
    restored = read_tables(reader.connection, server)
    tables = TableComparison(archive=archive, restored=restored, locate=locate)
    contents = large_objects.content_members(archive.members.values())
    oids = large_objects.read_oids(reader.connection)

    def compare_schema(reader: CopyReader) -> Found:
        expected = schemas.archive_schema()
        found = schemas.database_schema(expected, reader.connection)
        same_major = schemas.are_of_one_major(reader.connection)
        differences, warnings = sequences_and_extensions.compare_extensions(reader.connection, expected, server)
        differences += compare_schemas(expected, found, same_major=same_major, may_lack=may_lack)
        warnings += [
            f"the schema {entry.name}, which holds an extension, is not in the backup, but was created before"
            for entry in schemas_for_extensions(expected, found)
        ]
        differences += sequences_and_extensions.compare_materialized_views(reader.connection, expected, server)
        return Found(differences=differences, warnings=warnings)

    def compare_state(reader: CopyReader) -> Found:
        connection = reader.connection
        return Found(
            differences=[
                *tables.uncalled_for(reader),
                *sequences_and_extensions.compare_sequences(reader, toc, server),
                *large_objects.compare_existence(contents.keys(), oids),
                *large_objects.compare_properties(connection, toc, server, with_roles=with_roles),
            ],
            warnings=sequences_and_extensions.left_to_extensions(connection, server),
        )

    def compare_contents(group: Sequence[tuple[int, Member]], reader: CopyReader) -> Found:
        return Found(differences=list(large_objects.compare_contents(reader.connection, dict(group))))

    def size(members: Iterable[Member]) -> int:
        return sum(member.raw_bytes for member in members)

    return [
        # pg_dump can run while rows are read, so it is started first.
        Work(raw_bytes=0, do=compare_schema, is_first=True),
        *(Work(raw_bytes=size(group), do=partial(tables.compare, group)) for group in tables.groups()),
        Work(raw_bytes=0, do=compare_state),
        *(
            Work(raw_bytes=size(member for _, member in group), do=partial(compare_contents, group))
            for group in grouped((oid, member) for oid, member in contents.items() if oid in oids)
        ),
    ]
