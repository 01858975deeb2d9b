"""The rows of one table of a backup, without a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.postgres.archive.toc import RELATIONS
from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.reporting import did_you_mean, some_of
from airflow_pg_s3.core.repository.digest import COPY_TERMINATOR
from airflow_pg_s3.core.repository.manifest import Table
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.repository.thaw import refuse_archived
from airflow_pg_s3.core.restore.backup_source import open_backup
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class TableRequest:
    """Which table to read.

    :param backup: URI of the manifest.
    :param table: such as ``public.orders``, as `pg-s3 show` has it; without a schema, public's.
    :param identities: age identities that may open an encrypted backup.
    """

    backup: str
    table: str
    identities: Sequence[str] = ()
    spool_dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredTable:
    """A table whose rows a backup holds.

    :param members: several for partitions that are loaded through their root.
    :param codec: Python's codec of its rows and names.
    """

    table: Table
    members: Sequence[Member]
    codec: str


@translate_errors
def read_table(
    request: TableRequest,
    client: S3Client,
    begin: Callable[[StoredTable], Callable[[bytes], object]],
    *,
    cancel: threading.Event,
) -> None:
    """Read the rows of a table as COPY text, which is what ``COPY … TO STDOUT`` sent when they were dumped.

    :param begin: is given the table, and returns what takes its rows, in pieces that end anywhere; all of them are
        right only if this returns.
    :param cancel: set from anywhere to stop.
    :raises InputError: the backup holds no rows of it; the message has names that are near.
    :raises IntegrityError: what S3 holds is not what was backed up.
    :raises StorageError: S3 failed.
    """
    stored = read_manifest(client, request.backup)
    refuse_archived(client, request.backup, cancel=cancel)
    with (
        Workspace(request.spool_dir) as workspace,
        open_backup(
            stored, client, request.backup, workspace, identities=request.identities, jobs=1, stop=cancel
        ) as archive,
    ):
        table = _find(archive, request.table)
        write = begin(table)
        for member in table.members:
            rows = _Rows(write)
            archive.read(member, rows.write)
            rows.finish(member.name)


def _find(archive: ArchiveFolder, name: str) -> StoredTable:
    manifest = archive.manifest
    found: dict[str, list[Member]] = {}
    for member in archive.members.values():
        if member.table is not None:
            found.setdefault(f"{member.table.schema_name}.{member.table.name}", []).append(member)
    members = found.get(name) or found.get(f"public.{name}")
    if not members:
        raise _no_rows(archive, name, sorted(found))
    tables = [member.table for member in members if member.table is not None]
    if any(table.columns != tables[0].columns for table in tables):
        raise InputError(f"the partitions of {name} have their columns in different orders: restore the table")
    return StoredTable(table=tables[0], members=members, codec=manifest.server.codec)


def _no_rows(archive: ArchiveFolder, name: str, tables: Sequence[str]) -> InputError:
    """Return the error for a table that the backup holds no rows of.

    :param tables: those that it holds rows of.
    """
    full, toc, backup_id = name if "." in name else f"public.{name}", archive.toc, archive.manifest.backup_id
    for entry in toc.entries:
        if entry.kind in RELATIONS and full == toc.full_name(entry):
            why = (
                "were they left out, or are they its partitions'?"
                if entry.kind == "TABLE"
                else "it has none of its own"
            )
            return InputError(f"backup {backup_id} holds no rows of the {entry.kind.lower()} {full}: {why}")
    there = f"it holds those of {some_of(tables, _SHOWN)}" if tables else "it holds none at all"
    hint = did_you_mean(full, tables) or there
    return InputError(f"backup {backup_id} holds no rows of a table {name!r}: {hint}")


class _Rows:
    """Passes on what a member holds, but for its end."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._held_back = b""

    def write(self, chunk: bytes) -> None:
        joined = self._held_back + chunk
        self._held_back = joined[-len(COPY_TERMINATOR) :]
        self._write(joined[: -len(COPY_TERMINATOR)])

    def finish(self, name: str) -> None:
        if self._held_back != COPY_TERMINATOR:
            raise IntegrityError(f"{name} does not end as the data of a table does")
