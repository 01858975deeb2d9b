"""Databases that this package makes beside a user's: their names, comments and end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.errors import InputError, PgS3Error
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.postgres.subscriptions import drop_subscriptions, subscriptions_of
from airflow_pg_s3.core.reporting import Log

_Connection = psycopg.Connection[tuple[Any, ...]]
_NAME_BYTES = 63
_PATIENCE_SECONDS = 5.0
# The server's own, such as autovacuum's, have no user.
_SESSIONS = "select count(*) from pg_stat_activity where datname = %s and usesysid is not null"


def connect_beside(params: ConnectionParameters) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect to another database of a server: to postgres or, if that cannot be, to template1, as createdb does.

    :param params: of the database that may be missing, or must be free of sessions.
    :raises InputError: the server refuses; see `ConnectionParameters.connect`.
    """
    if params.database != "postgres":
        try:
            return params.of("postgres").connect()
        except InputError as error:
            # It does not exist, takes no connections, or not ours. All else would be refused once more.
            if 'database "postgres"' not in str(error):
                raise
    return params.of("template1").connect()


def drop_beside(connection: _Connection, params: ConnectionParameters, *, oid: int | None = None) -> None:
    """Drop a database that nobody needs, over another connection if this one is lost.

    :param connection: to another database of its server.
    :param oid: the database's, if another server may have one of that name; None to drop whatever has the name.
    :raises InputError: the server refuses a new connection.
    :raises psycopg.Error: it cannot be dropped.
    """
    try:
        drop(connection, params)
    except psycopg.OperationalError:
        if not connection.closed:
            raise
        # The server may have been restarted: that is why the connection is lost.
        restarted = replace(params, started_at=None)
        with connect_beside(restarted) as another:
            if oid in (None, value_of(another, "select oid from pg_database where datname = %s", params.database)):
                drop(another, restarted)


def create_database(connection: psycopg.Connection[tuple[Any, ...]], name: str, like: Server | None) -> None:
    """Create an empty database with the source's encoding and locale, or with the server's defaults.

    :raises InputError: the server refuses.
    :raises psycopg.Error: it has gone.
    """
    command = sql.SQL("create database {} template template0 {}").format(
        sql.Identifier(name), _locale_clauses(like, connection.info.server_version) if like else sql.SQL("")
    )
    try:
        connection.execute(command)
    except psycopg.Error as error:
        if connection.closed:
            raise
        raise InputError(f"the target database {name!r} does not exist and cannot be created: {error}") from error


def run_sql(connection: psycopg.Connection[tuple[Any, ...]], commands: Sequence[str]) -> None:
    """Run a user's commands in one transaction, as a migration would: with the search path of the database."""
    spoken = connection.info.parameter_status("client_encoding")
    with connection.transaction():
        # A session that loads rows speaks the archive's, which need not have all characters of the commands.
        connection.execute("set client_encoding = 'UTF8'; reset search_path")
        for command in commands:
            connection.execute(command.encode(connection.info.encoding))
        connection.execute("set search_path = ''")
        connection.execute("select pg_catalog.set_config('client_encoding', %s, false)", [spoken])


def run_sql_in(database: ConnectionParameters, commands: Sequence[str]) -> None:
    """Run a user's commands, if there are any, in a session of their own; as `run_sql`."""
    if commands:
        with database.connect() as connection:
            run_sql(connection, commands)


def analyze(connection: psycopg.Connection[tuple[Any, ...]], log: Log) -> None:
    """Collect the planner's statistics, which a dump does not carry; what cannot be analyzed is said."""
    # Not the whole database in one command: one foreign table that cannot be reached would end it.
    tables = connection.execute(
        "select format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace"
        " where relkind in ('r', 'm', 'p') and not relispartition"
        " and nspname not in ('pg_catalog', 'information_schema', 'pg_toast')"
    ).fetchall()
    for (table,) in tables:
        try:
            connection.execute(f"analyze {table}".encode())
        except psycopg.Error as error:
            log.warning("%s was restored, but not analyzed: %s", table, redacted(str(error)))


def _locale_clauses(like: Server, version: int) -> sql.Composable:
    options: dict[str, Any] = {"encoding": like.encoding, "lc_collate": like.collate, "lc_ctype": like.ctype}
    if version >= 150000 and like.locale_provider != "libc":
        options["locale_provider"] = like.locale_provider
        if like.locale:
            options["icu_locale" if like.locale_provider == "icu" else "builtin_locale"] = like.locale
        if like.icu_rules:
            options["icu_rules"] = like.icu_rules
    clauses = [sql.SQL(f"{key} {{}}").format(sql.Literal(value)) for key, value in options.items()]
    return sql.SQL(" ").join(clauses)


def sibling_name(database: str, what: str, token: str) -> str:
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
        with contextlib.suppress(psycopg.Error, PgS3Error), params.connect() as inside:
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
