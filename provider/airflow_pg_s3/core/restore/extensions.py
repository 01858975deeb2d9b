"""A trial of an archive's extensions in the target, before anything is restored.

The server may offer an extension and still refuse to create it: some need a certain database, a setting, or a
schema that was left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.archive.requirements import Requirements
from airflow_pg_s3.core.postgres.databases import run_sql
from airflow_pg_s3.core.postgres.sql_text import quote
from airflow_pg_s3.core.reporting import some_of

Connection = psycopg.Connection[tuple[Any, ...]]
_NO_RIGHT = "42501"
# The restore may yet create what is missing, and drop what is in the way.
_MAY_SUCCEED_LATER = "42"
_SHOWN = 10


def try_to_create(
    connection: Connection, needs: Requirements, *, pre_restore_sql: Sequence[str], left_out_with: Collection[str]
) -> None:
    """Create the extensions that the target lacks, check for the tables that they bring, and roll back.

    :param connection: a connection to the target.
    :param pre_restore_sql: commands to run first.
    :param left_out_with: SQLSTATEs with which the restore leaves an extension out.
    :raises InputError: the server refuses some, or rows have no table; the message names all of them.
    :raises psycopg.Error: the server refuses `pre_restore_sql`, or the connection is lost.
    """
    if not needs.extensions:
        return
    with connection.transaction(force_rollback=True):
        run_sql(connection, pre_restore_sql)
        for schema in needs.schemas:
            _try(connection, b"create schema if not exists %b" % _quoted(schema))
        refusals = dict(_refusals(connection, needs))
        states = {name: error.sqlstate or "" for name, error in refusals.items()}
        unknown = {
            name for name, state in states.items() if state.startswith(_MAY_SUCCEED_LATER) and state != _NO_RIGHT
        }
        lost = [] if unknown else list(_lost(connection, needs))
    problems = [
        _problem(name, needs.schema_of[name], error)
        for name, error in refusals.items()
        if name not in unknown and states[name] not in left_out_with
    ]
    if lost:
        problems.append(f"there is no table for the rows of {some_of(lost, _SHOWN)}, which came with an extension")
    if problems:
        raise InputError(
            f"the target does not take extensions as the backup has them: {'; '.join(problems)} (let "
            "pre_restore_sql create and set what they want, restore into the database that they want, or leave "
            "them out with managed_service=True, and their rows with exclude_tables)"
        )


def _refusals(connection: Connection, needs: Requirements) -> Iterator[tuple[str, psycopg.Error]]:
    for name, schema in needs.schema_of.items():
        if name in needs.extensions:
            command = b"create extension if not exists %b with schema %b" % (_quoted(name), _quoted(schema))
            if (error := _try(connection, command)) is not None:
                yield name, error


def _lost(connection: Connection, needs: Requirements) -> Iterator[str]:
    for schema, name in needs.tables_of_extensions:
        if _try(connection, b"select from only %b.%b limit 0" % (_quoted(schema), _quoted(name))) is not None:
            yield " ".join(f"{schema}.{name}".encode(errors="surrogateescape").decode(errors="replace").split())


def _try(connection: Connection, command: bytes) -> psycopg.Error | None:
    try:
        with connection.transaction():
            connection.execute(command)
    except psycopg.Error as error:
        if connection.closed:
            raise
        return error
    return None


def _problem(name: str, schema: str, error: psycopg.Error) -> str:
    message = " ".join((error.diag.message_primary or str(error)).split())
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return f"extension {name} in schema {schema}: {message}{detail}"


def _quoted(name: str) -> bytes:
    return quote(name.encode(errors="surrogateescape"))
