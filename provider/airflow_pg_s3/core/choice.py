"""What of an archive is restored: all of it, or what the user selects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airflow_pg_s3.core import selection
from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.manifest import Member
from airflow_pg_s3.core.selection import RELATIONS, TocEntry
from airflow_pg_s3.core.served import ServedArchive


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user selects; nothing means everything.

    :param tables: patterns of tables, with what is attached to them.
    :param schemas: patterns of schemas, with all that they hold.
    :param exclude_tables: patterns of tables to leave out, with all that depends on them.
    :param schema_only: definitions without data.
    :param data_only: data without definitions; the tables must be there, and empty.
    """

    tables: Sequence[str] = ()
    schemas: Sequence[str] = ()
    exclude_tables: Sequence[str] = ()
    schema_only: bool = False
    data_only: bool = False

    @property
    def is_part(self) -> bool:
        """Whether it is less than everything."""
        return bool(self.has_patterns or self.schema_only or self.data_only)

    @property
    def has_patterns(self) -> bool:
        """Whether objects are selected by name."""
        return bool(self.tables or self.schemas or self.exclude_tables)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is restored.

    :param members: the members that pg_restore will read.
    :param arguments: tell pg_restore the same.
    :param relations: schema and name of the selected relations; None if everything is restored.
    :param has_statistics: whether the planner's statistics are among it.
    :param has_partition_keys: whether partitions have keys that belong to those of their tables.
    """

    members: list[Member]
    arguments: list[str]
    relations: list[tuple[str, str]] | None
    has_statistics: bool
    has_partition_keys: bool

    @property
    def tables(self) -> list[tuple[str, str]]:
        """Schema and name of the tables whose data is restored."""
        return [(m.table.schema_name, m.table.name) for m in self.members if m.table is not None]


def choose(
    archive: ServedArchive,
    *,
    tools: ClientTools,
    wanted: Wanted,
    options: Sequence[str],
    exists: Callable[[TocEntry], bool],
) -> Choice:
    """Find out what pg_restore will restore.

    :param options: the user's own options for pg_restore.
    :param exists: whether the target has an object already that the selected ones need.
    :raises InputError: a pattern matches nothing.
    :raises IntegrityError: the archive and its manifest do not fit.
    """
    arguments = [*options]
    arguments += ["--schema-only"] * wanted.schema_only + ["--data-only"] * wanted.data_only
    codec = archive.manifest.server.codec
    relations = None
    if wanted.has_patterns:
        entries = selection.list_entries(archive.folder, tools=tools, arguments=["--verbose"], codec=codec)
        selected = selection.select(
            entries,
            archive.manifest,
            tables=wanted.tables,
            schemas=wanted.schemas,
            exclude_tables=wanted.exclude_tables,
            exists=exists,
        )
        relations = [(entry.schema, entry.name) for entry in selected if entry.kind in RELATIONS]
        arguments.append(selection.use_list(archive.workspace.folder / "use.list", selected))
    restored = selection.list_entries(archive.folder, tools=tools, arguments=arguments, codec=codec)
    kinds = {entry.kind for entry in restored}
    members = [_data_of(entry, archive) for entry in restored if entry.kind == "TABLE DATA"]
    if "BLOBS" in kinds:
        members += [member for name, member in archive.members.items() if name.startswith("blob")]
    return Choice(
        members=members,
        arguments=arguments,
        relations=relations,
        has_statistics="STATISTICS DATA" in kinds,
        has_partition_keys="INDEX ATTACH" in kinds,
    )


def _data_of(entry: TocEntry, archive: ServedArchive) -> Member:
    member = archive.members.get(f"{entry.dump_id}.dat")
    if member is None:
        raise IntegrityError(f"the manifest has no member for the table data {entry.rest!r}")
    return member
