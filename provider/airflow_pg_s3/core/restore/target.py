"""The database to restore into."""

from __future__ import annotations

import contextlib
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.errors import DataConflict, InputError, PgS3Error
from airflow_pg_s3.core.postgres.archive.toc import RELATIONS, Entry
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.databases import (
    analyze,
    connect_beside,
    create_database,
    drop_beside,
    run_sql,
    value_of,
)
from airflow_pg_s3.core.postgres.heartbeat import Heartbeat
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.reporting import Log, some_of
from airflow_pg_s3.core.restore.context import RestoreContext

_SHOWN = 5
# Objects made by users: neither the system's own, nor members of extensions, nor extensions themselves, as
# providers install some, and an archive creates only those that are missing.
_USER_OBJECTS = """
with own (oid) as (
    select oid from pg_namespace
    where nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and nspname !~ '^pg_(toast_)?temp_'
), part_of_extension (classid, objid) as (select classid, objid from pg_depend where deptype = 'e')
-- In a database in SQL_ASCII, names need not be UTF-8.
select kind, convert_to(name, case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end) from (
    select case relkind when 'S' then 'sequence' when 'v' then 'view' when 'm' then 'materialized view'
               when 'c' then 'type' when 'f' then 'foreign table' else 'table' end as kind,
           oid::regclass::text as name, 'pg_class'::regclass as classid, oid as objid
    from pg_class where relnamespace in (select oid from own) and relkind not in ('i', 'I', 't')
    union all
    select 'function', oid::regprocedure::text, 'pg_proc'::regclass, oid
    from pg_proc where pronamespace in (select oid from own)
    union all
    select 'type', oid::regtype::text, 'pg_type'::regclass, oid
    from pg_type where typnamespace in (select oid from own) and typtype in ('d', 'e', 'r')
    union all
    select 'schema', quote_ident(nspname), 'pg_namespace'::regclass, oid
    from pg_namespace where oid in (select oid from own) and nspname <> 'public'
    union all
    select 'large object', oid::text, 'pg_largeobject_metadata'::regclass, oid from pg_largeobject_metadata
    union all
    select 'event trigger', quote_ident(evtname), 'pg_event_trigger'::regclass, oid from pg_event_trigger
    union all
    select 'publication', quote_ident(pubname), 'pg_publication'::regclass, oid from pg_publication
    union all
    select 'subscription', quote_ident(subname), 'pg_subscription'::regclass, 0::oid from pg_subscription
    where subdbid = (select oid from pg_database where datname = current_database())
) as objects
where (classid, objid) not in (select classid, objid from part_of_extension)
order by kind <> 'table', kind, name
"""
# Queries that look up an object by the schema and name of its entry.
_RELATION = "select to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))"
_TYPE = "select to_regtype(format('%%I.%%I', %(schema)s::text, %(name)s::text))"
# A function's entry is named with its arguments.
_FUNCTION = """
select to_regprocedure(format('%%I.%%I', %(schema)s::text, split_part(%(name)s, '(', 1))
                       || substr(%(name)s, strpos(%(name)s, '(')))
"""
# A constraint's entry is named "table constraint".
_CONSTRAINT = """
select k.oid from pg_constraint k join pg_class c on c.oid = conrelid join pg_namespace n on n.oid = relnamespace
where nspname = %(schema)s and relname || ' ' || conname = %(name)s
"""
_EXISTS = {
    "SCHEMA": "select oid from pg_namespace where nspname = %(name)s",
    "EXTENSION": "select oid from pg_extension where extname = %(name)s",
    **dict.fromkeys(["TYPE", "DOMAIN", "SHELL TYPE"], _TYPE),
    **dict.fromkeys(["FUNCTION", "PROCEDURE", "AGGREGATE"], _FUNCTION),
    **dict.fromkeys([*RELATIONS, "INDEX"], _RELATION),
    "CONSTRAINT": _CONSTRAINT,
}
_EXISTING = """
select format('%%I.%%I', nspname, relname) from unnest(%s::text[], %s::text[]) as wanted (schema, name)
join pg_namespace on nspname = schema join pg_class on relnamespace = pg_namespace.oid and relname = name
"""


def finish(context: RestoreContext, target: ConnectionParameters, *, has_statistics: bool) -> None:
    """Run `post_restore_sql`, and analyze a replacement, before anybody uses the database.

    :param has_statistics: whether the planner's statistics were restored with the data.
    """
    commands = context.request.post_restore_sql
    to_analyze = context.request.if_exists == "replace" and not has_statistics
    if not commands and not to_analyze:
        return
    with target.connect() as connection:
        if commands:
            run_sql(connection, commands)
        if to_analyze:
            analyze(connection, context.log)


class Target(ABC):
    """A database to restore into, and a session on its server that lasts as long as the restore.

    :param params: server and name of the database.
    """

    def __init__(self, params: ConnectionParameters) -> None:
        self.params = params
        self.previous: str | None = None
        self.warnings: list[str] = []

    def _keep(
        self, connection: psycopg.Connection[tuple[Any, ...]], what: str, cancel: threading.Event | None = None
    ) -> None:
        """Keep a connection open, and pin all others to its server.

        :param what: the connection's purpose, for the message if it is lost.
        :param cancel: set if the connection is lost; None to let the restore go on.
        """
        with ExitStack() as stack:
            self._connection = stack.enter_context(connection)
            self.params = self.params.pinned(connection)
            stack.push(self._drop_half)
            # The heartbeat is stopped first on exit: a ping without an answer would delay the drop.
            stack.enter_context(Heartbeat(connection, what, cancel))
            self._stack = stack.pop_all()

    @abstractmethod
    def __enter__(self) -> Target:
        """Connect."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _drop_half(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            # Half a database is of no use, and would be in the way of a retry.
            with contextlib.suppress(psycopg.Error, PgS3Error):
                self._drop()

    @abstractmethod
    def _drop(self) -> None:
        """Drop what was created for the restore."""

    @property
    def connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection to the database if it `exists`, otherwise to another database of its server."""
        return self._connection

    @property
    @abstractmethod
    def exists(self) -> bool:
        """True if the restore goes into a database that existed before."""

    @abstractmethod
    def holds(self, entry: Entry) -> bool:
        """True if the database has the object of an entry."""

    @abstractmethod
    def check(self, relations: Sequence[tuple[str, str]] | None = None) -> None:
        """Check everything that can be checked before anything is touched.

        :param relations: schema and name of the relations to restore, if other objects may stay; None for
            everything.
        :raises InputError: the restore could not work; the message names every reason.
        :raises DataConflict: something is in the way.
        """

    def refuse_rows(self, tables: Sequence[tuple[str, str]]) -> None:
        """Check that tables exist and are empty, so that no row is there twice after the restore.

        :raises InputError: a table is missing.
        :raises DataConflict: a table holds rows.
        """
        if not self.exists:
            raise InputError(f"data_only: the target database {self.params.database!r} does not exist")
        for schema, name in tables:
            table = sql.Identifier(schema, name)
            try:
                row = self._connection.execute(sql.SQL("select from {} limit 1").format(table)).fetchone()
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
                raise InputError(f"data_only: the table {schema}.{name} is not in the target: {error}") from error
            if row is not None:
                raise DataConflict(f"data_only: the target's table {schema}.{name} holds rows already: empty it")

    @abstractmethod
    def prepare(self, like: Server | None) -> None:
        """Create the database if it is missing.

        :param like: the source server, for its encoding and locale; None for the target server's defaults.
        :raises InputError: the server refuses.
        """

    @abstractmethod
    def promote(self) -> None:
        """Put the restored database in its final place."""

    @property
    def version(self) -> int:
        """The server's ``server_version_num``."""
        return self._connection.info.server_version


class InPlaceTarget(Target):
    """A database to restore into, which need not exist yet.

    If it was created here and the block raises, it is dropped again.

    :param params: server and name of the database.
    :param must_be_empty: refuse a database that holds anything or, if only some relations are restored, one of
        them.
    :param log: is told if the database is created.
    :param may_create: create the database if it does not exist.
    :raises InputError: the server refuses.
    """

    def __init__(
        self, params: ConnectionParameters, *, must_be_empty: bool, log: Log, may_create: bool = True
    ) -> None:
        super().__init__(params)
        self._log = log
        self._may_create = may_create
        self._must_be_empty = must_be_empty
        self._oid: int | None = None  # of the database, if it was created here

    def __enter__(self) -> InPlaceTarget:
        try:
            connection = self.params.connect()
            self._exists = True
        except InputError as error:
            if f'database "{self.params.database}" does not exist' not in str(error):
                raise
            connection = connect_beside(self.params)
            self._exists = False
        self._keep(connection, "the connection to the target")
        return self

    def _drop(self) -> None:
        if self._oid is not None:
            drop_beside(self._connection, self.params, oid=self._oid)

    @property
    def exists(self) -> bool:
        """True if the restore goes into a database that existed before."""
        return self._exists

    def holds(self, entry: Entry) -> bool:
        """True if the database has the object of an entry."""
        if not self._exists or (query := _EXISTS.get(entry.kind)) is None:
            return False
        try:
            row = self._connection.execute(query, {"schema": entry.schema, "name": entry.name}).fetchone()
        except psycopg.Error:  # a name that does not resolve, such as a type of a missing extension
            return False
        return row is not None and row[0] is not None

    def check(self, relations: Sequence[tuple[str, str]] | None = None) -> None:
        """Check everything that can be checked before the database is touched.

        :param relations: schema and name of the relations to restore, if other objects may stay; None for
            everything.
        :raises InputError: the database does not exist, and must not be created.
        :raises DataConflict: the database holds something; the message names some of it.
        """
        if not self._exists:
            if not self._may_create:
                raise InputError(
                    f"the target database {self.params.database!r} does not exist: create it, or leave out "
                    "create_database=False"
                )
        elif self._must_be_empty:
            self._refuse_content(relations)

    def prepare(self, like: Server | None) -> None:
        """Create the database if it is missing.

        :param like: the source server, for its encoding and locale; None for the target server's defaults.
        :raises InputError: the server refuses.
        """
        if not self._exists:
            create_database(
                self._connection, self.params.database, like, otherwise="have somebody create the database"
            )
            self._oid = value_of(
                self._connection, "select oid from pg_database where datname = %s", self.params.database
            )
            self._log.info("created the database %r, which did not exist", self.params.database)

    def promote(self) -> None:
        """Do nothing: the database is in its final place."""

    def _refuse_content(self, relations: Sequence[tuple[str, str]] | None) -> None:
        found = self._connection.execute(_USER_OBJECTS).fetchall()
        if relations is not None:
            schemas, names = [schema for schema, _ in relations], [name for _, name in relations]
            existing = self._connection.execute(_EXISTING, [schemas, names]).fetchall()
            found = [("relation", name.encode()) for (name,) in existing]
        if found:
            # Names may hold line breaks, and the message is one line.
            texts = [f"{kind} {name.decode(errors='replace')}" for kind, name in found]
            shown = " ".join(some_of(texts, _SHOWN).split())
            name = f"the target database {self.params.database!r}"
            there = "is not empty, it holds" if relations is None else "already holds"
            replace = (
                "" if relations is not None
                else ', or if_exists="replace" to put the backup in its place, which takes the right CREATEDB and '
                "loses what is newer than the backup"
            )  # fmt: skip
            raise DataConflict(
                f'{name} {there} {shown}: restore into another database, or give if_exists="clean" to '
                f"drop what the backup also holds, with its present rows{replace}"
            )


def refuse_older(version: int, source_version: str) -> None:
    """Check that the target server's major version is not older than the source's.

    :param version: the target's ``server_version_num``.
    :param source_version: the source's version, such as ``16.14`` or ``19beta1``.
    :raises InputError: it is older.
    """
    major = int(re.split(r"\D", source_version, maxsplit=1)[0])
    if version // 10000 < major:
        raise InputError(
            f"the target server is PostgreSQL {version // 10000}, older than the source's {source_version}: "
            f"restore into PostgreSQL {major} or newer"
        )
