"""The choice of entries for a restore of some tables or schemas.

pg_restore's own ``--table`` leaves out indexes and constraints, and its ``--schema`` the schema itself. Here a
table comes with everything that is attached to it and, into an empty database, with what it needs.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.archive.toc import RELATIONS, Entry, Toc
from airflow_pg_s3.core.postgres.archive.use_list import listed_ids, use_list
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.reporting import did_you_mean
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.load import member_of
from airflow_pg_s3.core.restore.request import Selection

# Kinds of entries that belong to a relation and come with it.
_ATTACHED = (
    "TABLE DATA", "TABLE ATTACH", "INDEX ATTACH", "INDEX", "CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "TRIGGER",
    "RULE", "POLICY", "ROW SECURITY", "COMMENT", "ACL", "SECURITY LABEL", "STATISTICS DATA", "STATISTICS",
    "SEQUENCE OWNED BY", "SEQUENCE SET", "SEQUENCE", "MATERIALIZED VIEW DATA",
)  # fmt: skip
# Kinds that may need other relations too: such an entry comes only with that whose name its own is or begins with.
_OF_ONE_RELATION = {
    "CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "MATERIALIZED VIEW DATA", "POLICY", "RULE", "TRIGGER",
}  # fmt: skip
_FOREIGN_KEY = "FK CONSTRAINT"
_MEMBERSHIPS = ("PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA")
_VIEWS = ("VIEW", "MATERIALIZED VIEW")
# A view whose query needs a primary key gets its query by a rule of this name, after the key.
_QUERY = " _RETURN"
_ATTACHES = ("TABLE ATTACH", "INDEX ATTACH")
# Kinds of links, with how many entries of which kinds each needs if the archive holds both its ends: the key that
# is referred to; two tables; two indexes. pg_dump notes no dependency on what it leaves out.
_ENDS = {
    _FOREIGN_KEY: (1, ("CONSTRAINT", "INDEX")),
    "INDEX ATTACH": (2, ("CONSTRAINT", "INDEX")),
    "TABLE ATTACH": (2, RELATIONS),
}
# Settings without which the other entries' text would be misread.
_SETTINGS = ("ENCODING", "STDSTRINGS", "SEARCHPATH")


class Selected(NamedTuple):
    """The chosen entries.

    :param entries: in pg_restore's order.
    :param ties: entries that link these to other objects, which the target may have. They are created last:
        foreign keys, ATTACH PARTITION, membership in publications.
    """

    entries: list[Entry]
    ties: list[Entry]


def select(
    toc: Toc,
    *,
    tables: Sequence[str] = (),
    schemas: Sequence[str] = (),
    exclude_tables: Sequence[str] = (),
    exists: Callable[[Entry], bool] = lambda entry: False,
) -> Selected:
    """Choose the entries of some tables and schemas.

    Names are compared in the form that manifests have; the returned entries have their names in that form, too.

    :param tables: patterns such as ``public.orders`` and ``audit.*``; a name without a schema is in public.
    :param schemas: patterns of schema names; everything in these schemas is chosen.
    :param exclude_tables: patterns of tables to leave out, with everything that depends on them.
    :param exists: returns whether the target already has an object that a chosen entry needs (a type, function,
        sequence or schema); what the target lacks is chosen too.
    :raises InputError: a pattern matches nothing; the message suggests similar names.
    """
    entries = [_shown(entry, toc) for entry in toc.entries]
    return _select(entries, tables, schemas, exclude_tables, exists)


def _shown(entry: Entry, toc: Toc) -> Entry:
    """The entry with its names in the form that manifests have."""
    return entry._replace(schema=toc.shown(entry.schema), name=toc.shown(entry.name))


def _select(
    entries: Sequence[Entry],
    tables: Sequence[str],
    schemas: Sequence[str],
    exclude_tables: Sequence[str],
    exists: Callable[[Entry], bool],
) -> Selected:
    by_table = {f"{entry.schema}.{entry.name}": entry for entry in entries if entry.kind in RELATIONS}
    chosen: set[int] = set()
    for pattern in tables:
        chosen |= {by_table[name].dump_id for name in _matching(pattern, by_table, "tables")}
    foreign_keys = {entry.dump_id for entry in entries if entry.kind == _FOREIGN_KEY}
    own_schema = {entry.dump_id: entry.name if entry.kind == "SCHEMA" else entry.schema for entry in entries}
    for pattern in schemas:
        names = _matching(pattern, {*own_schema.values()} - {""}, "schemas")
        chosen |= {
            entry.dump_id
            for entry in entries
            if own_schema[entry.dump_id] in names and foreign_keys.isdisjoint([entry.dump_id, *entry.dependencies])
        }
    if not tables and not schemas:
        chosen = {entry.dump_id for entry in entries}
    own = _complete(entries, chosen, exists)
    excluded: set[int] = set()
    # An archive holds the contents of an extension's tables and sequences, but not their definitions.
    contents = {f"{e.schema}.{e.name}": e for e in entries if e.kind in ("TABLE DATA", "SEQUENCE SET")}
    by_name = contents | by_table
    for pattern in exclude_tables:
        names = _matching(pattern, by_name, "exclude_tables")
        excluded |= {by_name[name].dump_id for name in names}
    while more := {e.dump_id for e in entries if not excluded.isdisjoint(e.dependencies)} - excluded:
        excluded |= more
    ties = _ties(entries, own - excluded, chosen - excluded)
    restored = chosen - excluded - ties
    return Selected(
        entries=[entry for entry in entries if entry.dump_id in restored],
        ties=[entry for entry in entries if entry.dump_id in ties],
    )


def _ties(entries: Sequence[Entry], own: set[int], chosen: set[int]) -> set[int]:
    """Find the entries that link chosen objects to others that are not chosen.

    :param own: dump ids that are chosen for themselves, not only because others need them.
    """
    by_id = {entry.dump_id: entry for entry in entries}
    ties: set[int] = set()
    for entry in entries:
        needed = by_id.keys() & entry.dependencies
        owners = [by_id[number] for number in needed & own]
        if entry.kind == _FOREIGN_KEY:
            is_ours = any(e.schema == entry.schema and entry.name.startswith(f"{e.name} ") for e in owners)
        elif entry.kind in _ATTACHES:
            # An index may be that of a constraint, whose entry is named "table constraint".
            is_ours = any(e.schema == entry.schema and f" {e.name}".endswith(f" {entry.name}") for e in owners)
        else:
            is_ours = entry.kind in _MEMBERSHIPS and any(e.kind in (*RELATIONS, "SCHEMA") for e in owners)
        if (is_ours and not needed <= chosen) or not ties.isdisjoint(needed):
            ties.add(entry.dump_id)
    return ties


def loose_ends(toc: Toc) -> list[Entry]:
    """Find the links to what a backup of a part has left out, and the comments on them.

    :param toc: that of such a backup: in a whole one, a foreign key to a table of an extension looks the same.
    """
    loose: set[int] = set()
    for entry in toc.entries:
        needed = [toc.by_id[number].kind for number in set(entry.dependencies) & toc.by_id.keys()]
        count, kinds = _ENDS.get(entry.kind, (0, ()))
        is_comment = entry.kind == "COMMENT" and not loose.isdisjoint(entry.dependencies)
        if is_comment or sum(kind in kinds for kind in needed) < count:
            loose.add(entry.dump_id)
    return [entry for entry in toc.entries if entry.dump_id in loose]


def _full(pattern: str, parameter: str) -> str:
    return pattern if "." in pattern or parameter == "schemas" else f"public.{pattern}"


def _matching(pattern: str, names: Iterable[str], parameter: str) -> list[str]:
    names = list(names)

    def find(given: str) -> list[str]:
        full = _full(given, parameter)
        return [name for name in names if name == full] or fnmatch.filter(names, full)

    found = find(pattern)
    if not found:
        parts = re.split(r"[\s,]+", pattern.strip(", \t\n"))
        if all(map(find, parts)):
            hint = f"give each by itself: {parameter}={parts}"
        else:
            shown = ", ".join(sorted(names)[:10])
            hint = did_you_mean(_full(pattern, parameter), names) or f"there are {shown}"
        raise InputError(f"{parameter}: {pattern!r} matches nothing in the backup; {hint}")
    return found


def _complete(entries: Sequence[Entry], chosen: set[int], exists: Callable[[Entry], bool]) -> set[int]:
    """Add what comes with the chosen entries, then what these need; return the ids before the second step."""
    by_id = {entry.dump_id: entry for entry in entries}

    def grow(add: Callable[[Entry], bool]) -> bool:
        new = {e.dump_id for e in entries if e.dump_id not in chosen and add(e)}
        chosen.update(new)
        return bool(new)

    hosting = (*RELATIONS, *_ATTACHED, _FOREIGN_KEY)

    def is_attached(entry: Entry) -> bool:
        hosts = [by_id[n] for n in set(entry.dependencies) & by_id.keys() if by_id[n].kind in hosting]
        if entry.kind in _OF_ONE_RELATION and len(hosts) > 1:
            hosts = [h for h in hosts if h.schema == entry.schema and f"{entry.name} ".startswith(f"{h.name} ")]
        return entry.kind in _ATTACHED and any(host.dump_id in chosen for host in hosts)

    roots: dict[int, set[int]] = {}
    for entry in entries:
        if entry.kind == "TABLE ATTACH":
            # The entry needs the partition and its root, and the partition needs the root.
            for needed in by_id.keys() & entry.dependencies:
                roots.setdefault(needed, set()).update(set(by_id[needed].dependencies) & set(entry.dependencies))

    # A relation comes with what is attached to it, and with its partitions. What a relation needs comes with
    # its own definition only.
    while grow(lambda entry: is_attached(entry) or not chosen.isdisjoint(roots.get(entry.dump_id, ()))):
        pass
    # A foreign key to a table that is not restored is a tie, which comes last.
    grow(
        lambda entry: (
            entry.kind == _FOREIGN_KEY
            and all(needed in chosen for needed in entry.dependencies if needed in by_id)
        )
    )
    grow(is_attached)  # comments on foreign keys
    own = set(chosen)
    visited: set[int] = set()
    while (
        missing := {n for e in entries if e.dump_id in chosen for n in e.dependencies if n in by_id}
        - chosen
        - visited
    ):
        visited |= missing
        chosen |= {number for number in missing if not exists(by_id[number])}
    chosen |= {e.dump_id for e in entries if e.kind in _SETTINGS}
    return own


def refuse_views_alone(chosen: Sequence[Entry], toc: Toc, holds: Callable[[Entry], bool]) -> None:
    """Refuse views without the relations that they read.

    :param chosen: the entries to restore.
    :param holds: returns whether the target has an object.
    :raises InputError: a view reads what is neither restored nor in the target; the message names it.
    """
    queries = [e for e in chosen if e.kind in _VIEWS or (e.kind == "RULE" and e.name.endswith(_QUERY))]
    needed = {number for entry in queries for number in entry.dependencies}
    needed.difference_update(entry.dump_id for entry in chosen)
    read = [_shown(toc.by_id[number], toc) for number in sorted(needed & toc.by_id.keys())]
    lacking = [f"{one.schema}.{one.name}" for one in read if one.kind in RELATIONS and not holds(one)]
    if lacking:
        raise InputError(
            f"the selected views read {', '.join(lacking)}, which the target lacks: select these as well: "
            f"tables={lacking}"
        )


@dataclass(frozen=True, kw_only=True)
class ChosenEntries:
    """What is restored of a backup.

    :param entries: in pg_restore's order.
    :param members: the backup's members with rows and large objects of these entries.
    :param ties: entries that link these to other objects of the target (`Selected`).
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
        """True if the planner's statistics are restored too."""
        return any(entry.kind == "STATISTICS DATA" for entry in self.entries)


def choose(
    archive: ArchiveFolder,
    *,
    tools: ClientTools,
    wanted: Selection,
    options: Sequence[str],
    exists: Callable[[Entry], bool],
) -> ChosenEntries:
    """Choose what is restored.

    :param options: the user's own options for pg_restore.
    :param exists: returns whether the target already has an object that a selected one needs.
    :raises InputError: a pattern matches nothing.
    :raises IntegrityError: the archive does not fit its manifest.
    """
    toc = archive.toc
    arguments = [*options]
    arguments += ["--schema-only"] * wanted.schema_only + ["--data-only"] * wanted.data_only
    relations = None
    ties: list[Entry] = []
    if wanted.has_patterns:
        selected, ties = select(
            toc,
            tables=wanted.tables,
            schemas=wanted.schemas,
            exclude_tables=wanted.exclude_tables,
            exists=exists,
        )
        relations = [(entry.schema, entry.name) for entry in selected if entry.kind in RELATIONS]
        numbers_file = archive.workspace.folder / "use.list"
        arguments.append(use_list(numbers_file, [entry.dump_id for entry in [*selected, *ties]]))
    # pg_restore knows best which entries the user's options leave out.
    numbers = listed_ids(archive.folder, tools=tools, arguments=arguments)
    tying = {entry.dump_id for entry in ties}
    if archive.manifest.dump.left_out_by:
        tying |= {entry.dump_id for entry in loose_ends(toc)}
    restored = [toc.by_id[number] for number in numbers if number not in tying]
    members = [member_of(entry, archive) for entry in restored if entry.kind == "TABLE DATA"]
    if any(entry.kind == "BLOBS" for entry in restored):
        members += [member for name, member in archive.members.items() if name.startswith("blob")]
    ties = [toc.by_id[number] for number in numbers if number in tying]
    return ChosenEntries(entries=restored, members=members, ties=ties, relations=relations)
