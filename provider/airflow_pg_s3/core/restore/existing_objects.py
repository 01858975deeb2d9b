"""Entries of an archive that the target has and keeps: the schema public and, with "clean", extensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_pg_s3.core.postgres.archive.toc import Entry
from airflow_pg_s3.core.postgres.encodings import as_text, in_session
from airflow_pg_s3.core.postgres.errors import RIGHTS, try_execute
from airflow_pg_s3.core.postgres.sql_text import quote_name
from airflow_pg_s3.core.restore.target import Target

# pg_dump --schema=public writes a CREATE SCHEMA for public too; otherwise it knows that every database has it.
_CREATE = b"CREATE SCHEMA "
_NO_SUCH_ROLE = "42704"
_ABOUT_ANOTHER = ("ACL", "COMMENT", "SECURITY LABEL")
# Schemas that hold an extension or one of its members: to drop them, the extension would have to be dropped.
_SCHEMAS_OF_EXTENSIONS = """
select nspname from pg_namespace n where exists (
    select from pg_depend d where refclassid = 'pg_namespace'::regclass and refobjid = n.oid
    and (classid = 'pg_extension'::regclass or exists (
        select from pg_depend m where m.classid = d.classid and m.objid = d.objid and m.deptype = 'e')))
"""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An archive's entries, divided into those to restore and those that the target keeps.

    :param entries: the entries to restore.
    :param extensions: the extensions that the target has and keeps.
    :param public: the entry of the schema public, if it exists and is to get the owner that the archive names.
    """

    entries: list[Entry]
    extensions: list[Entry]
    public: Entry | None


def standing(entries: Sequence[Entry], target: Target, *, clean: bool, is_part: bool) -> Standing:
    """Divide an archive's entries into those to restore and those that the target keeps.

    :param clean: whether what is restored is dropped first, if the database exists. What the target keeps then
        also keeps its owner, privileges and comment.
    :param is_part: whether the entries are a selection, for a database that may hold other things.
    """
    schemas = [entry for entry in entries if entry.kind == "SCHEMA" and entry.definition.startswith(_CREATE)]
    kept = [entry for entry in schemas if entry.name == "public"] if has_public(target) else []
    public = kept[0] if kept and not (target.exists and (clean or is_part)) else None
    extensions: list[Entry] = []
    if clean and target.exists:
        hosts = {name for (name,) in target.connection.execute(_SCHEMAS_OF_EXTENSIONS)}
        extensions = [entry for entry in entries if entry.kind == "EXTENSION" and target.holds(entry)]
        kept += [*extensions, *(entry for entry in schemas if entry.name in hosts)]
    numbers = {entry.dump_id for entry in kept}
    if clean and target.exists:
        numbers |= {
            entry.dump_id
            for entry in entries
            if entry.kind in _ABOUT_ANOTHER and not numbers.isdisjoint(entry.dependencies)
        }
    return Standing(
        entries=[entry for entry in entries if entry.dump_id not in numbers],
        extensions=extensions,
        public=public,
    )


def has_public(target: Target) -> bool:
    """True if the database has the schema public, or will have it once it is created."""
    if not target.exists:
        return True
    return target.connection.execute("select from pg_namespace where nspname = 'public'").fetchone() is not None


def change_owner_of_public(
    connection: psycopg.Connection[tuple[Any, ...]], public: Entry, warn: Callable[[str], None]
) -> None:
    """Give the schema public the owner that an archive names.

    :param warn: called with the reason if that is not possible.
    """
    owners = connection.execute("select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'public'")
    if [as_text(owner) for (owner,) in owners] == [public.owner]:
        return
    command = f"alter schema public owner to {quote_name(public.owner)}"
    reason = try_execute(connection, in_session(command, connection), tolerated={*RIGHTS, _NO_SUCH_ROLE})
    if reason is not None:
        warn(f"schema public does not belong to {public.owner}, as in the source: {reason}")
