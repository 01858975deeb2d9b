"""What of an archive is restored: all of it, or what the user selects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airflow_pg_s3.core import selection
from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.load import member_of
from airflow_pg_s3.core.manifest import Member
from airflow_pg_s3.core.pg_restore import use_list
from airflow_pg_s3.core.selection import RELATIONS
from airflow_pg_s3.core.served import ServedArchive
from airflow_pg_s3.core.toc import Entry


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
    def only_excludes(self) -> bool:
        """Whether it is everything but `exclude_tables`."""
        return not (self.tables or self.schemas or self.schema_only or self.data_only)

    @property
    def has_patterns(self) -> bool:
        """Whether objects are selected by name."""
        return bool(self.tables or self.schemas or self.exclude_tables)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is restored.

    :param entries: in the order of restoring.
    :param members: those of them that hold rows and large objects.
    :param ties: what ties them to others, which the target may have (`selection.Selected`).
    :param relations: schema and name of the selected relations; None if everything is restored.
    """

    entries: list[Entry]
    members: list[Member]
    ties: list[Entry]
    relations: list[tuple[str, str]] | None

    @property
    def tables(self) -> list[tuple[str, str]]:
        """Schema and name of the tables whose data is restored."""
        return [(m.table.schema_name, m.table.name) for m in self.members if m.table is not None]

    @property
    def has_statistics(self) -> bool:
        """Whether the planner's statistics are among it."""
        return any(entry.kind == "STATISTICS DATA" for entry in self.entries)


def choose(
    archive: ServedArchive,
    *,
    tools: ClientTools,
    wanted: Wanted,
    options: Sequence[str],
    exists: Callable[[Entry], bool],
) -> Choice:
    """Find out what is restored.

    :param options: the user's own options for pg_restore.
    :param exists: whether the target has an object already that the selected ones need.
    :raises InputError: a pattern matches nothing.
    :raises IntegrityError: the archive and its manifest do not fit.
    """
    toc = archive.toc
    arguments = [*options]
    arguments += ["--schema-only"] * wanted.schema_only + ["--data-only"] * wanted.data_only
    relations = None
    ties: list[Entry] = []
    if wanted.has_patterns:
        selected, ties = selection.select(
            toc,
            tables=wanted.tables,
            schemas=wanted.schemas,
            exclude_tables=wanted.exclude_tables,
            exists=exists,
        )
        relations = [(entry.schema, entry.name) for entry in selected if entry.kind in RELATIONS]
        numbers_file = archive.workspace.folder / "use.list"
        arguments.append(use_list(numbers_file, [entry.dump_id for entry in [*selected, *ties]]))
    # Which entries the user's options leave out, pg_restore knows best.
    numbers = selection.listed_ids(archive.folder, tools=tools, arguments=arguments)
    tying = {entry.dump_id for entry in ties}
    restored = [toc.by_id[number] for number in numbers if number not in tying]
    members = [member_of(entry, archive) for entry in restored if entry.kind == "TABLE DATA"]
    if any(entry.kind == "BLOBS" for entry in restored):
        members += [member for name, member in archive.members.items() if name.startswith("blob")]
    ties = [toc.by_id[number] for number in numbers if number in tying]
    return Choice(entries=restored, members=members, ties=ties, relations=relations)
