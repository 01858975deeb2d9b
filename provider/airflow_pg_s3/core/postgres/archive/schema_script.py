"""A database's definitions as pg_dump and pg_restore write them, split into entries to compare, never to run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from airflow_pg_s3.core.postgres.archive import toc

TO_BE_FILLED = "MATERIALIZED VIEW DATA"
"""Kind of the entries that fill views; pg_restore writes them with the definitions, pg_dump does not."""

_HEADER = re.compile(
    r"^--\n-- (?:Data for |Statistics for )?Name: (.*); Type: (.*); Schema: (.*); "
    r"Owner: (.*?)(?:; Tablespace: (.*))?\n--\n",
    re.MULTILINE,
)
_FOOTER = re.compile(r"\n--\n-- PostgreSQL database dump complete\n--\n(?s:.*)\Z")
# Written before an entry when the setting changes, and so found in the text of the entry before.
_ACCESS_METHOD = re.compile(r"^SET default_table_access_method = (.*);\n", re.MULTILINE)
_TABLESPACE = re.compile(r"^SET default_tablespace = .*;\n", re.MULTILINE)
_STRINGS = re.compile(r"^SET standard_conforming_strings = (on|off);$", re.MULTILINE)
# pg_attver is internal to servers from 15.20 and 17.12 on; a pg_dump that does not know it dumps it.
_NAME = r'(?:"(?:[^"]|"")+"|[^\s".]+)'
_OF_COLUMN = rf"^ALTER (?:FOREIGN )?TABLE (?:ONLY )?{_NAME}\.{_NAME} ALTER COLUMN {_NAME} SET \("
_ATTVER_ALONE = re.compile(rf"{_OF_COLUMN}pg_attver=\d+\);\n", re.MULTILINE)
_ATTVER_BESIDE = re.compile(rf"({_OF_COLUMN})(?:pg_attver=\d+, (.+)|(.+), pg_attver=\d+)(?=\);$)", re.MULTILINE)
# Kinds of entries whose name begins with the kind of object that they are about.
_OF_OBJECTS = ("ACL", "COMMENT", "SECURITY LABEL")
_KIND_OF_OBJECT = re.compile(r"((?:[A-Z]+ )+)(.*)")
_ROLE = r'(?:"(?:[^"]|"")+"|[^\s",;]+)'
_ROLES_OF_POLICY = re.compile(rf"(?<= TO ){_ROLE}(?:, {_ROLE})+(?= USING \(| WITH CHECK \(|;)")
# Every database has the schema public. Only a dump of single schemas creates it, and writes owner and comment even
# if they are those of a new database.
_CREATES_PUBLIC = re.compile(
    r'^(?:CREATE SCHEMA "?public"?;|-- \*not\* creating schema, since initdb creates it)\n+', re.MULTILINE
)
_AS_IN_NEW_DATABASES = (
    "ALTER SCHEMA public OWNER TO pg_database_owner;",
    'ALTER SCHEMA "public" OWNER TO "pg_database_owner";',
    "COMMENT ON SCHEMA public IS 'standard public schema';",
    "COMMENT ON SCHEMA \"public\" IS 'standard public schema';",
)
_DUMPED_BY = re.compile(r"^-- Dumped by pg_dump version (\d+)", re.MULTILINE)
_FIRST_THAT_TELLS_OF_PUBLIC = 15
# Restored subscriptions forget their slots.
_SLOT = re.compile(r"(?<= WITH \(connect = false, slot_name = )'\w+'")


class Entry(NamedTuple):
    """What identifies an entry.

    :param schema: its schema; ``-`` if it has none.
    :param name: its name in the comment above it, where line breaks are replaced by spaces.
    """

    kind: str
    schema: str
    name: str

    @classmethod
    def of(cls, entry: toc.Entry) -> Self:
        """Return what identifies an entry of a table of contents."""
        return cls(entry.kind, entry.schema or "-", re.sub(r"[\r\n]", " ", entry.name))

    def __str__(self) -> str:
        kind, name = self.kind, self.name
        if kind in _OF_OBJECTS and (match := _KIND_OF_OBJECT.fullmatch(name)):
            kind, name = f"{kind} of {match.group(1).strip()}", match.group(2)
        return f"{kind} {name}" if self.schema == "-" else f"{kind} {self.schema}.{name}"


@dataclass(frozen=True, kw_only=True)
class SchemaText:
    """Definitions by entry.

    :param entries: the lines of each entry's statements; several texts if entries share kind, schema and name.
    :param standard_conforming_strings: the setting under which literals are written.
    :param tells_of_public: whether pg_dump writes owner and comment of the schema public if they differ from those
        in a new database.
    """

    entries: Mapping[Entry, list[list[str]]]
    standard_conforming_strings: bool
    tells_of_public: bool


def parse(script: str) -> SchemaText:
    """Split a plain script at the comments that introduce its entries."""
    entries: defaultdict[Entry, list[list[str]]] = defaultdict(list)
    for entry, tablespace, access_method, text in _cut(_FOOTER.sub("\n", script)):
        text = _SLOT.sub("NONE", _CREATES_PUBLIC.sub("", text)).strip("\n")
        if text in _AS_IN_NEW_DATABASES:
            continue
        lines = _ordered(entry.kind, text.split("\n"))
        # Partitioned tables have no access method; the setting of another table would be taken for theirs.
        if entry.kind in ("TABLE", "MATERIALIZED VIEW") and "\nPARTITION BY " not in text:
            lines.append(f"-- access method {access_method}")
        if tablespace:
            lines.append(f"-- tablespace {tablespace}")
        entries[entry].append(lines)
    for texts in entries.values():
        texts.sort()
    strings, dumped_by = _STRINGS.search(script), _DUMPED_BY.search(script)
    return SchemaText(
        entries=dict(entries),
        standard_conforming_strings=strings is None or strings.group(1) == "on",
        tells_of_public=dumped_by is None or int(dumped_by.group(1)) >= _FIRST_THAT_TELLS_OF_PUBLIC,
    )


def printable(text: str) -> str:
    """Replace bytes that are invalid in the database's encoding."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _cut(script: str) -> Iterator[tuple[Entry, str, str, str]]:
    access_method = ""
    prelude, *parts = _HEADER.split(script)
    before = prelude
    for name, kind, schema, _, tablespace, text in zip(*(parts[i::6] for i in range(6)), strict=True):
        # The owner in the comment is ignored: statements set it, unless owners are left out.
        if settings := _ACCESS_METHOD.findall(before):
            access_method = settings[-1]
        before = text
        text = _TABLESPACE.sub("", _ACCESS_METHOD.sub("", text))
        if kind.endswith(("TABLE", "VIEW")):
            text = _ATTVER_BESIDE.sub(r"\1\2\3", _ATTVER_ALONE.sub("", text))
        yield Entry(kind, schema, name), tablespace or "", access_method, text


def _ordered(kind: str, lines: list[str]) -> list[str]:
    """Sort lines whose order has no meaning or is not preserved: privileges, and columns of inheriting tables."""
    if kind.endswith("ACL"):
        return sorted(lines)
    if kind == "POLICY":
        # Roles are in the order of their oids, which differs between servers.
        return _ROLES_OF_POLICY.sub(_sort_roles, "\n".join(lines), count=1).split("\n")
    if kind == "TABLE" and any(line.startswith("INHERITS (") for line in lines):
        return sorted(line.rstrip(",") for line in lines)
    return lines


def _sort_roles(roles: re.Match[str]) -> str:
    return ", ".join(sorted(re.findall(_ROLE, roles.group())))
