"""The scratch database of a verification, marked so that the next one can drop it if this one is killed."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Collection
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.errors import InputError, PgS3Error
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.databases import (
    comment_on,
    connect_beside,
    create_database,
    drop_beside,
    is_used,
    sibling_name,
    value_of,
)
from airflow_pg_s3.core.postgres.heartbeat import Heartbeat
from airflow_pg_s3.core.postgres.server import Server, advisory_key
from airflow_pg_s3.core.reporting import Log

_Connection = psycopg.Connection[tuple[Any, ...]]
_MARK = "airflow-provider-pg-s3: scratch database of a verification"
_WITHOUT_RIGHTS = "leave postgres_conn_id out: a throwaway server is used"
_NAME = re.compile(r".*__verify_[0-9a-f]{6}", re.DOTALL)


class ScratchDatabase:
    """A new, empty database for a verification, which is dropped in any case.

    An advisory lock shows that the database is in use, for as long as its verification lives. Databases that are
    marked and not locked were left by verifications that were killed, and are dropped too.

    :param server: the server to create it on, and the role that creates it.
    :param database: the name of the database that was backed up, which the new name begins with.
    :param like: the source server, for its encoding and locale.
    :param is_throwaway: whether the server is one of ours, and gone soon: a locale that it lacks is replaced by C,
        and nothing is dropped.
    :param cancel: set if the connection is lost, so that the verification ends.
    """

    def __init__(
        self,
        server: ConnectionParameters,
        database: str,
        like: Server,
        *,
        is_throwaway: bool,
        cancel: threading.Event,
        log: Log,
    ) -> None:
        self._like = like
        self._is_throwaway = is_throwaway
        self._log = log
        self.params = server.of(sibling_name(database, "verify", secrets.token_hex(3)))
        self.missing_locale: str | None = None
        self._cancel = cancel

    def __enter__(self) -> ScratchDatabase:
        with ExitStack() as stack:
            self._connection = stack.enter_context(connect_beside(self.params))
            self.params = self.params.pinned(self._connection)
            stack.callback(self._drop)
            what = "the connection that marks the scratch database as in use"
            # The heartbeat is stopped first on exit: a ping without an answer would delay the drop.
            stack.enter_context(Heartbeat(self._connection, what, self._cancel))
            self._remove_leftovers()
            name = self.params.database
            # The lock comes first: any verification may drop a database without one.
            self._connection.execute("select pg_advisory_lock(%s)", [advisory_key(f"verify {name}")])
            self._create()
            self._connection.execute(comment_on(name, _MARK))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    @property
    def version(self) -> str:
        """The server's version, such as ``16.14``."""
        return str(value_of(self._connection, "show server_version")).split(" ")[0]

    @property
    def version_num(self) -> int:
        """The server's ``server_version_num``."""
        return self._connection.info.server_version

    @property
    def is_superuser(self) -> bool:
        """True if the role is a superuser."""
        return bool(value_of(self._connection, "select rolsuper from pg_roles where rolname = current_user"))

    def lacking_roles(self, names: Collection[str]) -> list[str]:
        """Return those of the roles that the server lacks, sorted."""
        there = {name for (name,) in self._connection.execute("select rolname from pg_roles")}
        return sorted(set(names) - there)

    def lacking_tablespaces(self, names: Collection[str]) -> list[str]:
        """Return those of the tablespaces that the server lacks, sorted."""
        there = {name for (name,) in self._connection.execute("select spcname from pg_tablespace")}
        return sorted(set(names) - there)

    def create_roles(self, names: Collection[str]) -> None:
        """Create roles without any rights, to own objects and be granted privileges."""
        for name in names:
            self._connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(name)))

    def create_tablespaces(self, names: Collection[str]) -> None:
        """Create tablespaces within the server's data folder."""
        for name in names:
            self._connection.execute("set allow_in_place_tablespaces = on")
            self._connection.execute(sql.SQL("create tablespace {} location ''").format(sql.Identifier(name)))

    def _create(self) -> None:
        name = self.params.database
        try:
            create_database(self._connection, name, self._like, otherwise=_WITHOUT_RIGHTS)
        except InputError as error:
            if not self._is_throwaway:
                raise
            # A worker rarely has the source's locale. Data does not depend on it, only sort order does.
            plain = {"collate": "C", "ctype": "C", "locale_provider": "libc", "locale": None, "icu_rules": None}
            create_database(self._connection, name, self._like.model_copy(update=plain))
            self.missing_locale = self._like.locale or self._like.collate
            self._log.warning("%s; it is made with the locale C instead", error)

    def _drop(self) -> None:
        name = self.params.database
        try:
            if not self._is_throwaway:
                drop_beside(self._connection, self.params)
        except (psycopg.Error, PgS3Error) as error:
            self._log.warning(
                "the scratch database %s is still there (the next verification on this server will drop it): %s",
                name,
                error,
            )

    def _remove_leftovers(self) -> None:
        names = self._connection.execute(
            "select datname, shobj_description(oid, 'pg_database') from pg_database"
        ).fetchall()
        for name, comment in names:
            # A verification killed just after CREATE DATABASE leaves no mark; the database is known by its name.
            if comment != _MARK and not (comment is None and _NAME.fullmatch(name)):
                continue
            if value_of(self._connection, "select pg_try_advisory_lock(%s)", advisory_key(f"verify {name}")):
                try:
                    if is_used(self._connection, name):
                        # Its verification may still be running: it lost the session with the lock, and has not
                        # noticed yet.
                        self._log.warning(
                            "%s is of another verification, and in use: the next one will drop it", name
                        )
                        continue
                    drop_beside(self._connection, self.params.of(name))
                    self._log.info("removed %s, which a verification that was killed had left", name)
                except (psycopg.Error, InputError) as error:  # another role's, for example
                    self._log.warning("%s was left by a verification, and cannot be dropped: %s", name, error)
                finally:
                    self._connection.execute("select pg_advisory_unlock(%s)", [advisory_key(f"verify {name}")])
