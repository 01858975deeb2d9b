"""Which entries of an archive's table of contents a restore of some tables or schemas takes.

pg_restore's own ``--table`` leaves out indexes and constraints, and its ``--schema`` the schema itself. Here a
table comes with all that is attached to it, and into an empty database also with what it needs.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.manifest import Manifest, Table
from airflow_pg_s3.core.toc import Entry, Toc

RELATIONS = ("FOREIGN TABLE", "MATERIALIZED VIEW", "TABLE", "VIEW", "SEQUENCE")
PRIVILEGES = ("ACL", "DEFAULT ACL")
# What belongs to a relation and comes with it.
_ATTACHED = (
    "TABLE DATA", "TABLE ATTACH", "INDEX ATTACH", "INDEX", "CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "TRIGGER",
    "RULE", "POLICY", "ROW SECURITY", "COMMENT", "ACL", "SECURITY LABEL", "STATISTICS DATA", "STATISTICS",
    "SEQUENCE OWNED BY", "SEQUENCE SET", "SEQUENCE", "MATERIALIZED VIEW DATA",
)  # fmt: skip
# Of these, what also needs other tables comes only with its own, which its name begins with.
_OF_ONE_RELATION = {"CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "POLICY", "RULE", "TRIGGER"}
_FOREIGN_KEY = "FK CONSTRAINT"
# Without these the text of the rest would be read wrongly.
_SETTINGS = ("ENCODING", "STDSTRINGS", "SEARCHPATH")
_LISTED = re.compile(rb"^(\d+); ", re.MULTILINE)


def listed_ids(archive: Path, *, tools: ClientTools, arguments: Sequence[str] = ()) -> list[int]:
    """Ask pg_restore which entries some options leave, in the order of restoring.

    :return: dump ids.
    :raises ClientProgramError: pg_restore cannot read the archive, or does not know the options.
    """
    # Names are on their entry's line, as pg_restore makes spaces of line breaks.
    return [int(number) for number in _LISTED.findall(tools.ask_pg_restore("--list", *arguments, str(archive)))]


def use_list(file: Path, entries: Iterable[Entry | TocEntry]) -> str:
    """Write down which entries pg_restore is to take, in this order, and return the option that says so."""
    file.write_text("".join(f"{entry.dump_id};\n" for entry in entries))
    return f"--use-list={file}"


def select(
    toc: Toc | Sequence[TocEntry],
    manifest: Manifest | None = None,
    *,
    tables: Sequence[str] = (),
    schemas: Sequence[str] = (),
    exclude_tables: Sequence[str] = (),
    exists: Callable[[Any], bool] = lambda entry: False,
) -> list[Any]:
    """Choose the entries of some tables and schemas.

    Names are compared, and those of the entries returned, as manifests show them.

    :param tables: patterns such as ``public.orders`` and ``audit.*``; a name without a schema means public's.
    :param schemas: patterns of schema names; everything in them is taken.
    :param exclude_tables: patterns of tables to leave out, with all that depends on them.
    :param exists: whether the target has already what the chosen entries need (types, functions, sequences,
        schemas); what it has not is taken too.
    :raises InputError: a pattern that matches nothing; the message suggests near names.
    """
    if not isinstance(toc, Toc):
        return _select_listed(
            toc, manifest, exists, dict(tables=tables, schemas=schemas, exclude_tables=exclude_tables)
        )
    entries = [entry._replace(schema=toc.shown(entry.schema), name=toc.shown(entry.name)) for entry in toc.entries]
    return _select(entries, tables, schemas, exclude_tables, exists)


def _select(
    entries: Sequence[Entry],
    tables: Sequence[str],
    schemas: Sequence[str],
    exclude_tables: Sequence[str],
    exists: Callable[[Entry], bool],
) -> list[Entry]:
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
    _complete(entries, chosen, exists)
    excluded: set[int] = set()
    for pattern in exclude_tables:
        names = _matching(_full(pattern), by_table, "exclude_tables", pattern)
        excluded |= {by_table[name].dump_id for name in names}
    while more := {e.dump_id for e in entries if not excluded.isdisjoint(e.dependencies)} - excluded:
        excluded |= more
    return [entry for entry in entries if entry.dump_id in chosen - excluded]


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


def _complete(entries: Sequence[Entry], chosen: set[int], exists: Callable[[Entry], bool]) -> None:
    by_id = {entry.dump_id: entry for entry in entries}

    def grow(add: Callable[[Entry], bool]) -> bool:
        new = {e.dump_id for e in entries if e.dump_id not in chosen and add(e)}
        chosen.update(new)
        return bool(new)

    hosting = (*RELATIONS, *_ATTACHED, _FOREIGN_KEY)

    def is_attached(entry: Entry) -> bool:
        hosts = [by_id[n] for n in set(entry.dependencies) & by_id.keys() if by_id[n].kind in hosting]
        if entry.kind in _OF_ONE_RELATION and len(hosts) > 1:
            hosts = [h for h in hosts if h.schema == entry.schema and entry.name.startswith(f"{h.name} ")] or hosts
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
    # A foreign key to a table that is not restored could not be made.
    grow(
        lambda entry: (
            entry.kind == _FOREIGN_KEY
            and all(needed in chosen for needed in entry.dependencies if needed in by_id)
        )
    )
    grow(is_attached)  # comments on foreign keys
    looked_at: set[int] = set()
    while (
        missing := {n for e in entries if e.dump_id in chosen for n in e.dependencies if n in by_id}
        - chosen
        - looked_at
    ):
        looked_at |= missing
        chosen |= {number for number in missing if not exists(by_id[number])}
    chosen |= {e.dump_id for e in entries if e.kind in _SETTINGS}


# -- entries out of pg_restore's listing, until nobody asks for them any more ------------------------------------

_OTHERS = (
    "ACCESS METHOD", "AGGREGATE", "BLOB METADATA", "BLOB", "BLOBS", "CAST", "COLLATION", "CONVERSION", "DATABASE",
    "DATABASE PROPERTIES", "DEFAULT ACL", "DOMAIN", "ENCODING", "EVENT TRIGGER", "EXTENSION",
    "FOREIGN DATA WRAPPER", "FUNCTION", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "PROCEDURAL LANGUAGE",
    "PROCEDURE", "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "SCHEMA", "SEARCHPATH",
    "SERVER", "SHELL TYPE", "STDSTRINGS", "SUBSCRIPTION", "SUBSCRIPTION TABLE", "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY", "TEXT SEARCH PARSER", "TEXT SEARCH TEMPLATE", "TRANSFORM", "TYPE", "USER MAPPING",
)  # fmt: skip
# Longest first, as "TABLE" also begins "TABLE DATA".
_KINDS = sorted({*RELATIONS, *_ATTACHED, _FOREIGN_KEY, *_OTHERS}, key=len, reverse=True)
_LINE = re.compile(rf"^(\d+); (\d+) \d+ (?:({'|'.join(_KINDS)}) )?(.*)$")
# Behind the kind comes the schema, and "TABLE DATA" might be a table in the schema DATA as well: which it is, the
# oid of its catalog tells. pg_dump gives none to what is in no catalog (nilCatalogId, makeTableDataInfo).
# 826, 2616 and 2753 are pg_default_acl, pg_opclass and pg_opfamily.
_CATALOG_OF = {
    "TABLE DATA": "0", "TABLE ATTACH": "0", "INDEX ATTACH": "0", "SEQUENCE OWNED BY": "0", "SEQUENCE SET": "0",
    "MATERIALIZED VIEW DATA": "0", "STATISTICS DATA": "0", "DEFAULT ACL": "826", "OPERATOR CLASS": "2616",
    "OPERATOR FAMILY": "2753",
}  # fmt: skip
_DEPENDS = ";\tdepends on:"


@dataclass
class TocEntry:
    """One line of the table of contents.

    :param kind: its type, such as ``TABLE``; empty for one that is not known here.
    :param rest: schema, name and owner, divided by spaces (which names may hold too).
    """

    dump_id: int
    kind: str
    rest: str
    line: str
    needs: list[int] = field(default_factory=list)
    schema: str = ""
    name: str = ""


def list_entries(
    archive: Path, *, tools: ClientTools, arguments: Sequence[str] = (), codec: str = "utf-8"
) -> list[TocEntry]:
    """Ask pg_restore what an archive holds, in the order of restoring.

    :param arguments: further options, which may leave entries out.
    :param codec: Python codec of the archive's encoding, which names are in.
    :raises ClientProgramError: pg_restore cannot read it.
    """
    listing = tools.ask_pg_restore("--list", *arguments, str(archive))
    entries: list[TocEntry] = []
    for line in listing.decode(codec, errors="surrogateescape").split("\n"):
        if line.startswith(_DEPENDS) and entries:
            entries[-1].needs += [int(number) for number in line.removeprefix(_DEPENDS).split()]
        elif match := _LINE.match(line):
            dump_id, catalog, kind, rest = match.groups()
            if _CATALOG_OF.get(kind, catalog) != catalog:
                longer, kind = kind, next(k for k in _KINDS if kind.startswith(k + " "))
                rest = f"{longer.removeprefix(kind)} {rest}"
            entries.append(TocEntry(dump_id=int(dump_id), kind=kind or "", rest=rest.strip(), line=line))
    return entries


def _select_listed(
    entries: Sequence[TocEntry],
    manifest: Manifest | None,
    exists: Callable[[TocEntry], bool],
    patterns: dict[str, Sequence[str]],
) -> list[TocEntry]:
    assert manifest is not None
    _name_entries(entries, manifest)
    by_id = {entry.dump_id: entry for entry in entries}
    named = [
        Entry(
            e.dump_id,
            e.kind,
            None,
            e.schema,
            e.name,
            "",
            "",
            "",
            "",
            0,
            0,
            False,
            b"",
            b"",
            b"",
            tuple(e.needs),
            "",
        )
        for e in entries
    ]
    chosen = _select(named, **patterns, exists=lambda entry: exists(by_id[entry.dump_id]))
    return [by_id[entry.dump_id] for entry in chosen]


def _name_entries(entries: Iterable[TocEntry], manifest: Manifest) -> None:
    known: dict[int, Table] = {
        int(member.name.removesuffix(".dat")): member.table
        for member in manifest.members
        if member.table is not None and not member.table.through_root
    }
    table_of_data: dict[int, Table] = {}
    entries = list(entries)
    for entry in entries:
        if entry.kind == "TABLE DATA" and entry.dump_id in known:
            table_of_data |= {needed: known[entry.dump_id] for needed in entry.needs}
    # "SCHEMA - my schema owner" tells where the schema ends in "VIEW my schema my view owner".
    schemas = [entry.rest.removeprefix("- ").rpartition(" ")[0] for entry in entries if entry.kind == "SCHEMA"]
    schemas_with_spaces = sorted((name for name in schemas if " " in name), key=len, reverse=True)
    for entry in entries:
        if entry.kind == "TABLE" and entry.dump_id in table_of_data:
            table = table_of_data[entry.dump_id]
            entry.schema, entry.name = table.schema_name, table.name
        elif entry.rest.count(" ") >= 2:
            first_word = entry.rest.partition(" ")[0]
            schema = next((s for s in schemas_with_spaces if entry.rest.startswith(s + " ")), first_word)
            entry.schema = "" if schema == "-" else schema
            entry.name = entry.rest.removeprefix(schema + " ").rpartition(" ")[0]
