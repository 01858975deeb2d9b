"""Databases that this package makes beside a user's: their names, comments and end."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.libpq import ConnectionParameters
from airflow_pg_s3.core.subscriptions import drop_subscriptions, subscriptions_of

_Connection = psycopg.Connection[tuple[Any, ...]]
_NAME_BYTES = 63
_PATIENCE_SECONDS = 5.0
# The server's own, such as autovacuum's, have no user.
_SESSIONS = "select count(*) from pg_stat_activity where datname = %s and usesysid is not null"


def beside(database: str, what: str, token: str) -> str:
    """Name of a database beside another: ``<database>__<what>_<token>``, within PostgreSQL's 63 bytes."""
    suffix = f"__{what}_{token}"
    stem = database.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore")
    return stem + suffix


def comment_on(database: str, comment: str | None) -> sql.Composed:
    """Command that sets a database's comment."""
    return sql.SQL("comment on database {} is {}").format(sql.Identifier(database), sql.Literal(comment))


def drop(connection: _Connection, params: ConnectionParameters) -> None:
    """Drop a database if it exists, with the subscriptions that would keep it, and end the sessions in it.

    :param connection: to another database of its server.
    """
    if subscriptions_of(connection, params.database):
        # Whatever goes wrong here, the server says below what keeps the database.
        with contextlib.suppress(psycopg.Error, InputError), params.connect() as inside:
            drop_subscriptions(inside)
    connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(params.database)))


def is_used(connection: _Connection, database: str) -> bool:
    """Whether others are connected to a database, and stay: those of a client that was killed end in a moment."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while value_of(connection, _SESSIONS, database):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


def value_of(connection: _Connection, query: str, *values: Any) -> Any:
    """First column of the first row of an answer; None if there is none."""
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]
