"""The databases of a server, and those that this package creates and drops beside the user's."""

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
from airflow_pg_s3.core.postgres.errors import RIGHTS, translate_errors
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.postgres.subscriptions import drop_subscriptions, subscriptions_of
from airflow_pg_s3.core.reporting import Log

_Connection = psycopg.Connection[tuple[Any, ...]]
_NAME_BYTES = 63
_PATIENCE_SECONDS = 5.0
# Sessions of the server itself, such as autovacuum's, have no user.
_SESSIONS = "select count(*) from pg_stat_activity where datname = %s and usesysid is not null"
# The largest databases come first, so that none of them is begun last. Left out are databases that an interrupted
# DROP has left (-2), and those that a restore or verification creates, or has replaced. A database that the role
# may not connect to has no size here, and fails in a task of its own.
_TO_BACK_UP = r"""
select datname from pg_database
where datallowconn and not datistemplate and datconnlimit <> -2
  and datname !~ '__(verify|restore|before)_[0-9a-f]{6}$'
order by case when has_database_privilege(oid, 'CONNECT') then pg_database_size(oid) end desc nulls last, datname
"""


@translate_errors
def databases_to_back_up(params: ConnectionParameters) -> list[str]:
    """Return the names of a server's databases, the largest first; see `PgS3Hook.databases`.

    :raises InputError: the server refuses the connection.
    :raises ServerError: the server cannot be reached, or fails.
    """
    with params.connect() as connection:
        return [name for (name,) in connection.execute(_TO_BACK_UP)]


def connect_beside(params: ConnectionParameters) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect to another database of the server: to postgres or, if that fails, to template1, as createdb does.

    :param params: parameters of a database that may be missing, or must be free of sessions.
    :raises InputError: the server refuses; see `ConnectionParameters.connect`.
    """
    if params.database != "postgres":
        try:
            return params.of("postgres").connect()
        except InputError as error:
            # That database is missing, or refuses connections or our role. Any other refusal would be repeated.
            if 'database "postgres"' not in str(error):
                raise
    return params.of("template1").connect()


def drop_beside(connection: _Connection, params: ConnectionParameters, *, oid: int | None = None) -> None:
    """Drop a database that nobody needs, over a new connection if the given one is lost.

    :param connection: a connection to another database of the same server.
    :param oid: drop the database only if it has this oid, as another server may have one of that name; None to
        drop it by name alone.
    :raises InputError: the server refuses a new connection.
    :raises psycopg.Error: the database cannot be dropped.
    """
    try:
        drop(connection, params)
    except psycopg.OperationalError:
        if not connection.closed:
            raise
        # The connection may be lost because the server was restarted.
        restarted = replace(params, started_at=None)
        with connect_beside(restarted) as another:
            if oid in (None, value_of(another, "select oid from pg_database where datname = %s", params.database)):
                drop(another, restarted)


def create_database(
    connection: psycopg.Connection[tuple[Any, ...]], name: str, like: Server | None, *, otherwise: str = ""
) -> None:
    """Create an empty database with the source's encoding and locale, or with the server's defaults.

    :param otherwise: what else can be done where the role may not create it, for the message.
    :raises InputError: the server refuses.
    :raises psycopg.Error: the connection is lost.
    """
    command = sql.SQL("create database {} template template0 {}").format(
        sql.Identifier(name), _locale_clauses(like, connection.info.server_version) if like else sql.SQL("")
    )
    try:
        connection.execute(command)
    except psycopg.Error as error:
        if connection.closed:
            raise
        reason = " ".join(str(error).split())
        if error.sqlstate in RIGHTS:
            role = sql.Identifier(value_of(connection, "select current_user")).as_string(connection)
            reason = "; or ".join(filter(None, [may_not_create(role), otherwise]))
        raise InputError(f"the database {name!r} does not exist and cannot be created: {reason}") from error


def may_not_create(role: str) -> str:
    """Return the reason why a role cannot create a database, with what to do.

    :param role: its name, quoted as SQL needs it.
    """
    return f"the role {role} may not create databases (as a superuser: ALTER ROLE {role} CREATEDB)"


def run_sql(connection: psycopg.Connection[tuple[Any, ...]], commands: Sequence[str]) -> None:
    """Run a user's commands in one transaction, with the database's own search path, as a migration would."""
    client_encoding = connection.info.parameter_status("client_encoding")
    with connection.transaction():
        # A session that loads rows uses the archive's encoding, which may lack characters of the commands.
        connection.execute("set client_encoding = 'UTF8'; reset search_path")
        for command in commands:
            connection.execute(command.encode(connection.info.encoding))
        connection.execute("set search_path = ''")
        connection.execute("select pg_catalog.set_config('client_encoding', %s, false)", [client_encoding])


def run_sql_in(database: ConnectionParameters, commands: Sequence[str]) -> None:
    """Run a user's commands, if there are any, as `run_sql` does, in a session of their own."""
    if commands:
        with database.connect() as connection:
            run_sql(connection, commands)


def analyze(connection: psycopg.Connection[tuple[Any, ...]], log: Log) -> None:
    """Collect the planner's statistics, which a dump may lack; log tables that cannot be analyzed."""
    # Table by table: a foreign table whose server cannot be reached would end an ANALYZE of the whole database.
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
    """Return ``<database>__<what>_<token>``, shortened to PostgreSQL's 63 bytes."""
    suffix = f"__{what}_{token}"
    stem = database.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore")
    return stem + suffix


def comment_on(database: str, comment: str | None) -> sql.Composed:
    """Return the command that sets a database's comment."""
    return sql.SQL("comment on database {} is {}").format(sql.Identifier(database), sql.Literal(comment))


def drop(connection: _Connection, params: ConnectionParameters) -> None:
    """Drop a database if it exists, with its subscriptions, which would prevent that; end the sessions in it.

    :param connection: a connection to another database of the same server.
    """
    if subscriptions_of(connection, params.database):
        # If this fails, DROP DATABASE below gives the reason.
        with contextlib.suppress(psycopg.Error, PgS3Error), params.connect() as inside:
            drop_subscriptions(inside)
    connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(params.database)))


def is_used(connection: _Connection, database: str) -> bool:
    """True if a database still has sessions after five seconds, in which those of a killed client end."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while value_of(connection, _SESSIONS, database):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


def value_of(connection: _Connection, query: str, *values: Any) -> Any:
    """Return the first column of a query's first row; None if there is no row."""
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]
