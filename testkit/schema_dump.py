"""A database's schema as pg_dump writes it, by entry, without what differs between equal databases."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from testkit.postgres import installations
from testkit.sandbox import environment_without

HEADER = re.compile(r"^--\n-- Name: (.*); Type: (.*); Schema: (.*); Owner: (.*)\n--\n", re.MULTILINE)
# Random keys, and settings that depend on the order of entries: each is written only when its value changes.
NOISE = re.compile(r"^(\\(un)?restrict .*|SET default_(tablespace|table_access_method) = .*|--( .*)?|)$")
# pg_attver is internal to a server, but a pg_dump that does not know it writes it.
NAME = r'"(?:[^"]|"")+"'
ATTVER = re.compile(
    rf"^ALTER (?:FOREIGN )?TABLE ONLY {NAME}\.{NAME} ALTER COLUMN {NAME} SET \(pg_attver=\d+\);$"
    r"|(?<= SET \()pg_attver=\d+, |, pg_attver=\d+(?=\);$)",
    re.MULTILINE,
)
# pg_dump writes literals by this setting, which a database can change.
OPTIONS = "-c standard_conforming_strings=on"
# In the order of the servers' lists of roles, which differ.
ROLES_OF_POLICY = re.compile(rf"(?<= TO ){NAME}(?:, {NAME})+(?= USING \(| WITH CHECK \(|;)")
QUALIFIER = re.compile(r"\b\w+\.(?=\w)")
REPORTED_LINES = 6
REPORTED_CHARACTERS = 160


class Entry(NamedTuple):
    """What identifies an entry of a dump: the kind of the object, its schema (or "-") and its name."""

    kind: str
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.schema == "-" else f"{self.kind} {self.schema}.{self.name}"


Schema = Mapping[Entry, list[list[str]]]


def read_schema(dsn: str, *, client_major: int) -> Schema:
    """Return the lines of each entry's statements; several lists if entries share a header."""
    parameters = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    secret = {"PGPASSWORD": parameters.pop("password")} if "password" in parameters else {}
    argv = [
        os.fspath(installations()[client_major] / "pg_dump"),
        "--schema-only",
        "--encoding=UTF8",
        "--quote-all-identifiers",
        f"--dbname={make_conninfo(**parameters, options=OPTIONS)}",
    ]
    env = environment_without("PG") | secret
    done = subprocess.run(argv, env=env, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"pg_dump ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return split(done.stdout)


def split(dump: str) -> Schema:
    """Split a plain dump at the comments that introduce its entries."""
    _, *parts = HEADER.split(dump)
    entries: defaultdict[Entry, list[list[str]]] = defaultdict(list)
    for name, kind, schema, owner, body in zip(*(parts[start::5] for start in range(5)), strict=True):
        lines = [line for line in ATTVER.sub("", body).split("\n") if not NOISE.match(line)]
        entries[Entry(kind, schema, name)].append([f"-- Owner: {owner}", *_normalised(kind, lines)])
    for bodies in entries.values():
        bodies.sort()
    return entries


def _normalised(kind: str, lines: list[str]) -> list[str]:
    """Sort what has no order or loses it: privileges, a policy's roles, and columns of inheriting tables."""
    if kind.endswith("ACL"):
        return sorted(lines)
    if kind == "POLICY":
        return [ROLES_OF_POLICY.sub(_sort_roles, line) for line in lines]
    if kind == "TABLE" and any(line.startswith("INHERITS (") for line in lines):
        return sorted(line.rstrip(",") for line in lines)
    return lines


def _sort_roles(roles: re.Match[str]) -> str:
    return ", ".join(sorted(re.findall(NAME, roles.group())))


def compare_schemas(a: Schema, b: Schema, *, same_major: bool = True) -> list[str]:
    """Return a sentence for each entry that is missing in `b`, unexpected, or different from `a`.

    Major versions word views and privileges differently; with `same_major=False` that is no difference.
    """
    missing = [f"{entry} is missing" for entry in a if entry not in b]
    extra = [f"{entry} was not there before" for entry in b if entry not in a]
    view = _exactly if same_major else _loosely
    changed = [
        f"{entry} differs: {_short_diff(a[entry], b[entry])}"
        for entry in a
        if entry in b and view(entry, a[entry]) != view(entry, b[entry])
    ]
    return missing + extra + changed


def _exactly(entry: Entry, bodies: list[list[str]]) -> list[list[str]]:
    return bodies


def _loosely(entry: Entry, bodies: list[list[str]]) -> list[list[str]]:
    """Remove quotes, qualifiers (16 omits them in views), REVOKE, and 17's privilege MAINTAIN."""
    return [
        [
            QUALIFIER.sub("", line.replace('"', "")).replace("MAINTAIN,", "")
            for line in body
            if not (entry.kind == "ACL" and line.startswith("REVOKE "))
        ]
        for body in bodies
    ]


def _short_diff(a: list[list[str]], b: list[list[str]]) -> str:
    flat_a, flat_b = ([line for body in bodies for line in body] for bodies in (a, b))
    diff = [
        line for line in difflib.unified_diff(flat_a, flat_b, n=0, lineterm="") if line[:3] not in ("---", "+++")
    ]
    lines = [line[:REPORTED_CHARACTERS] for line in diff if not line.startswith("@@")]
    more = len(lines) - REPORTED_LINES
    return " | ".join(lines[:REPORTED_LINES]) + (f" | and {more} lines more" if more > 0 else "")
