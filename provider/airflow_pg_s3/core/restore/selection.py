"""Which entries of an archive's table of contents a restore of some tables or schemas takes.

pg_restore's own ``--table`` leaves out indexes and constraints, and its ``--schema`` the schema itself. Here a
table comes with all that is attached to it, and into an empty database also with what it needs.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.archive.toc import Entry, Toc
from airflow_pg_s3.core.postgres.archive.use_list import listed_ids, use_list
from airflow_pg_s3.core.postgres.client_tools import ClientTools
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.load import member_of
from airflow_pg_s3.core.restore.request import Selection

RELATIONS = ("FOREIGN TABLE", "MATERIALIZED VIEW", "TABLE", "VIEW", "SEQUENCE")
# What belongs to a relation and comes with it.
_ATTACHED = (
    "TABLE DATA", "TABLE ATTACH", "INDEX ATTACH", "INDEX", "CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "TRIGGER",
    "RULE", "POLICY", "ROW SECURITY", "COMMENT", "ACL", "SECURITY LABEL", "STATISTICS DATA", "STATISTICS",
    "SEQUENCE OWNED BY", "SEQUENCE SET", "SEQUENCE", "MATERIALIZED VIEW DATA",
)  # fmt: skip
# Of these, what also needs other tables comes only with its own, which its name begins with.
_OF_ONE_RELATION = {"CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "POLICY", "RULE", "TRIGGER"}
_FOREIGN_KEY = "FK CONSTRAINT"
_MEMBERSHIPS = ("PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA")
_ATTACHES = ("TABLE ATTACH", "INDEX ATTACH")
# Without these the text of the rest would be read wrongly.
_SETTINGS = ("ENCODING", "STDSTRINGS", "SEARCHPATH")


class Selected(NamedTuple):
    """What is chosen.

    :param entries: in the order of restoring.
    :param ties: what ties them to others, which the target may have, and can only be created last: foreign keys,
        what attaches partitions, membership in publications.
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

    Names are compared, and those of the entries returned, as manifests show them.

    :param tables: patterns such as ``public.orders`` and ``audit.*``; a name without a schema means public's.
    :param schemas: patterns of schema names; everything in them is taken.
    :param exclude_tables: patterns of tables to leave out, with all that depends on them.
    :param exists: whether the target has already what the chosen entries need (types, functions, sequences,
        schemas); what it has not is taken too.
    :raises InputError: a pattern that matches nothing; the message suggests near names.
    """
    entries = [entry._replace(schema=toc.shown(entry.schema), name=toc.shown(entry.name)) for entry in toc.entries]
    return _select(entries, tables, schemas, exclude_tables, exists)


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
        chosen |= {by_table[name].dump_id for name in _matching(_full(pattern), by_table, "tables", pattern)}
    foreign_keys = {entry.dump_id for entry in entries if entry.kind == _FOREIGN_KEY}
    own_schema = {entry.dump_id: entry.name if entry.kind == "SCHEMA" else entry.schema for entry in entries}
    for pattern in schemas:
        names = _matching(pattern, {*own_schema.values()} - {""}, "schemas", pattern)
        chosen |= {
            entry.dump_id
            for entry in entries
            if own_schema[entry.dump_id] in names and foreign_keys.isdisjoint([entry.dump_id, *entry.dependencies])
        }
    if not tables and not schemas:
        chosen = {entry.dump_id for entry in entries}
    own = _complete(entries, chosen, exists)
    excluded: set[int] = set()
    # Of an extension's tables and sequences, only what they hold is in an archive.
    contents = {f"{e.schema}.{e.name}": e for e in entries if e.kind in ("TABLE DATA", "SEQUENCE SET")}
    by_name = contents | by_table
    for pattern in exclude_tables:
        names = _matching(_full(pattern), by_name, "exclude_tables", pattern)
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
    """Find what ties objects to others that are not chosen.

    :param own: what is chosen for itself, not only as others need it.
    """
    by_id = {entry.dump_id: entry for entry in entries}
    ties: set[int] = set()
    for entry in entries:
        needed = by_id.keys() & entry.dependencies
        owners = [by_id[number] for number in needed & own]
        if entry.kind == _FOREIGN_KEY:
            is_ours = any(e.schema == entry.schema and entry.name.startswith(f"{e.name} ") for e in owners)
        elif entry.kind in _ATTACHES:
            # The name of a constraint, which an index can be of, comes behind its table's.
            is_ours = any(e.schema == entry.schema and f" {e.name}".endswith(f" {entry.name}") for e in owners)
        else:
            is_ours = entry.kind in _MEMBERSHIPS and any(e.kind in (*RELATIONS, "SCHEMA") for e in owners)
        if (is_ours and not needed <= chosen) or not ties.isdisjoint(needed):
            ties.add(entry.dump_id)
    return ties


def _full(pattern: str) -> str:
    return pattern if "." in pattern else f"public.{pattern}"


def _matching(pattern: str, names: Iterable[str], parameter: str, given: str) -> list[str]:
    names = list(names)
    found = [name for name in names if name == pattern] or fnmatch.filter(names, pattern)
    if not found:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; there are {', '.join(sorted(names)[:10])}"
        raise InputError(f"{parameter}: {given!r} matches nothing in the backup{hint}")
    return found


def _complete(entries: Sequence[Entry], chosen: set[int], exists: Callable[[Entry], bool]) -> set[int]:
    """Add what comes with the chosen and what they need; return them without the latter."""
    by_id = {entry.dump_id: entry for entry in entries}

    def grow(add: Callable[[Entry], bool]) -> bool:
        new = {e.dump_id for e in entries if e.dump_id not in chosen and add(e)}
        chosen.update(new)
        return bool(new)

    hosting = (*RELATIONS, *_ATTACHED, _FOREIGN_KEY)

    def is_attached(entry: Entry) -> bool:
        hosts = [by_id[n] for n in set(entry.dependencies) & by_id.keys() if by_id[n].kind in hosting]
        if entry.kind in _OF_ONE_RELATION and len(hosts) > 1:
            hosts = [h for h in hosts if h.schema == entry.schema and entry.name.startswith(f"{h.name} ")]
        return entry.kind in _ATTACHED and any(host.dump_id in chosen for host in hosts)

    roots: dict[int, set[int]] = {}
    for entry in entries:
        if entry.kind == "TABLE ATTACH":
            # It needs the partition and its root, and the partition needs the root.
            for needed in by_id.keys() & entry.dependencies:
                roots.setdefault(needed, set()).update(set(by_id[needed].dependencies) & set(entry.dependencies))

    # A relation brings what is attached to it, and its partitions. What it needs brings no more than its own
    # definition along.
    while grow(lambda entry: is_attached(entry) or not chosen.isdisjoint(roots.get(entry.dump_id, ()))):
        pass
    # One to a table that is not restored is a tie, which comes last.
    grow(
        lambda entry: (
            entry.kind == _FOREIGN_KEY
            and all(needed in chosen for needed in entry.dependencies if needed in by_id)
        )
    )
    grow(is_attached)  # comments on foreign keys
    own = set(chosen)
    looked_at: set[int] = set()
    while (
        missing := {n for e in entries if e.dump_id in chosen for n in e.dependencies if n in by_id}
        - chosen
        - looked_at
    ):
        looked_at |= missing
        chosen |= {number for number in missing if not exists(by_id[number])}
    chosen |= {e.dump_id for e in entries if e.kind in _SETTINGS}
    return own


@dataclass(frozen=True, kw_only=True)
class ChosenEntries:
    """What is restored.

    :param entries: in the order of restoring.
    :param members: those of them that hold rows and large objects.
    :param ties: what ties them to others, which the target may have (`Selected`).
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
    archive: ArchiveFolder,
    *,
    tools: ClientTools,
    wanted: Selection,
    options: Sequence[str],
    exists: Callable[[Entry], bool],
) -> ChosenEntries:
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
    # Which entries the user's options leave out, pg_restore knows best.
    numbers = listed_ids(archive.folder, tools=tools, arguments=arguments)
    tying = {entry.dump_id for entry in ties}
    restored = [toc.by_id[number] for number in numbers if number not in tying]
    members = [member_of(entry, archive) for entry in restored if entry.kind == "TABLE DATA"]
    if any(entry.kind == "BLOBS" for entry in restored):
        members += [member for name, member in archive.members.items() if name.startswith("blob")]
    ties = [toc.by_id[number] for number in numbers if number in tying]
    return ChosenEntries(entries=restored, members=members, ties=ties, relations=relations)
