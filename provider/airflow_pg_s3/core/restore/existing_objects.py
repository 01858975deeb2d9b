"""What of an archive stays as the target has it: the schema public and, where all else is dropped, extensions."""

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

# With --schema=public, pg_dump writes this of public as well. Otherwise it knows that every database has it.
_CREATE = b"CREATE SCHEMA "
_NO_SUCH_ROLE = "42704"
_ABOUT_ANOTHER = ("ACL", "COMMENT", "SECURITY LABEL")
# Those in which an extension is, or that it has put something into: it would have to be dropped before them.
_SCHEMAS_OF_EXTENSIONS = """
select nspname from pg_namespace n where exists (
    select from pg_depend d where refclassid = 'pg_namespace'::regclass and refobjid = n.oid
    and (classid = 'pg_extension'::regclass or exists (
        select from pg_depend m where m.classid = d.classid and m.objid = d.objid and m.deptype = 'e')))
"""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Which entries of an archive are restored, and which stand already.

    :param entries: those that are restored.
    :param extensions: those that the target has, and keeps.
    :param public: the schema of that name, if it stands and is still to get the owner that it has in the archive.
    """

    entries: list[Entry]
    extensions: list[Entry]
    public: Entry | None


def standing(entries: Sequence[Entry], target: Target, *, clean: bool, is_part: bool) -> Standing:
    """Divide an archive's entries.

    :param clean: what is restored is dropped before, if the database exists. What stands then keeps its owner,
        privileges and comment.
    :param is_part: they are selected, for a database that may hold other things.
    """
    schemas = [entry for entry in entries if entry.kind == "SCHEMA" and entry.definition.startswith(_CREATE)]
    stand = [entry for entry in schemas if entry.name == "public"] if has_public(target) else []
    public = stand[0] if stand and not (target.exists and (clean or is_part)) else None
    extensions: list[Entry] = []
    if clean and target.exists:
        hosts = {name for (name,) in target.connection.execute(_SCHEMAS_OF_EXTENSIONS)}
        extensions = [entry for entry in entries if entry.kind == "EXTENSION" and target.holds(entry)]
        stand += [*extensions, *(entry for entry in schemas if entry.name in hosts)]
    numbers = {entry.dump_id for entry in stand}
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
    """Whether the database has the schema public, or will have it, as it is to be created."""
    if not target.exists:
        return True
    return target.connection.execute("select from pg_namespace where nspname = 'public'").fetchone() is not None


def change_owner_of_public(
    connection: psycopg.Connection[tuple[Any, ...]], public: Entry, warn: Callable[[str], None]
) -> None:
    """Give the schema public the owner that it has in an archive.

    :param warn: takes a sentence that says why not, if it cannot.
    """
    owners = connection.execute("select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'public'")
    if [as_text(owner) for (owner,) in owners] == [public.owner]:
        return
    command = f"alter schema public owner to {quote_name(public.owner)}"
    reason = try_execute(connection, in_session(command, connection), tolerated={*RIGHTS, _NO_SUCH_ROLE})
    if reason is not None:
        warn(f"schema public does not belong to {public.owner}, as in the source: {reason}")
