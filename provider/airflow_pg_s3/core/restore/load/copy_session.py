"""A session that fills tables and large objects. However it ends, each table is complete or unchanged."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.postgres.archive.table_data import CopyTarget
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, settings_for_values
from airflow_pg_s3.core.postgres.encodings import in_session, psycopg_knows
from airflow_pg_s3.core.postgres.errors import copy_error
from airflow_pg_s3.core.postgres.heartbeat import cut_off, is_stale
from airflow_pg_s3.core.postgres.sql_text import quote_name
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive

# Calls its argument with all bytes, in order; raises at the end unless they are what was backed up.
Feed = Callable[[Callable[[bytes], object]], None]
# Settings of pg_restore (_doSetFixedOutputState in PostgreSQL's pg_backup_archiver.c) that affect rows, except
# those that `ConnectionParameters.set_up` makes for all our sessions.
_SETTINGS = {
    "check_function_bodies": "off",
    "xmloption": "content",
    "client_min_messages": "warning",
}


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """Options for loading rows.

    :param encoding: the archive's encoding, as PostgreSQL names it.
    :param lc_monetary: the locale of money values; None for the server's own.
    :param role: the role to SET; None to keep the role that logged in.
    :param superuser: the role that disables triggers, if it is not the one that loads.
    :param disables_triggers: whether triggers are disabled, and with them the checks of foreign keys.
    :param row_security: whether to obey row security policies, instead of failing if one applies.
    """

    encoding: str
    lc_monetary: Literal["C"] | None = None
    role: str | None = None
    superuser: str | None = None
    disables_triggers: bool = False
    row_security: bool = False


def loading_options(archive: OpenedArchive, *, data_only: bool) -> LoadingOptions:
    """Read the options for loading rows from pg_restore's options.

    :param data_only: whether the tables existed before the restore; if not, they have no triggers yet.
    """
    values = dict(archive.given)
    return LoadingOptions(
        encoding=archive.toc.encoding,
        lc_monetary=archive.lc_monetary,
        role=values.get("role"),
        superuser=values.get("superuser"),
        disables_triggers=data_only and "disable-triggers" in values,
        row_security="enable-row-security" in values,
    )


def become(connection: psycopg.Connection[tuple[Any, ...]], role: str) -> None:
    """Run SET ROLE for the session; `reset role` undoes it."""
    connection.execute(in_session(f"set role {quote_name(role)}", connection))


class LoadingSession:
    """A connection to the target, opened on first use. Used by one thread; only `abort` may come from another."""

    def __init__(self, target: ConnectionParameters, options: LoadingOptions) -> None:
        self._target = target
        self._options = options
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._used = 0.0
        self._is_aborted = False
        self._closing = threading.Lock()

    @property
    def connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The connection, with pg_restore's settings.

        :raises InputError: the server refuses the role.
        :raises psycopg.Error: the server cannot be reached.
        """
        if self._connection is not None and is_stale(self._connection, self._used):
            self.close()
        if self._connection is None:
            self._connection = self._target.connect()
            self._set_up(self._connection)
        self._used = time.monotonic()
        if self._is_aborted:
            raise Cancelled("stopped while rows were loaded")
        return self._connection

    def abort(self) -> None:
        """Break the connection, whatever it is doing; the server rolls back what is not committed."""
        self._is_aborted = True
        # Its own thread must not close it meanwhile: the socket's descriptor could be reused by another file.
        with self._closing:
            if self._connection is not None:
                cut_off(self._connection)

    def close(self) -> None:
        """Close the connection until it is needed again."""
        with self._closing:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _set_up(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        settings = _SETTINGS | settings_for_values(self._options.lc_monetary)
        settings["row_security"] = "on" if self._options.row_security else "off"
        self._become(connection)
        if psycopg_knows(self._options.encoding):
            # This setting is last: from here on the server's messages come in the archive's encoding.
            settings["client_encoding"] = self._options.encoding
        for name, value in settings.items():
            connection.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])

    def _become(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        if self._options.role is not None:
            become(connection, self._options.role)

    def copy(self, table: CopyTarget, feed: Feed, *, name: str, is_new: bool) -> None:
        """Load a table's rows in one transaction.

        :param name: the table's name for messages.
        :param is_new: whether this restore has created the table, so that truncating it loses nothing. Its rows
            are then frozen and, with ``wal_level = minimal``, written without WAL.
        :raises CopyError: the server does not accept the rows.
        :raises IntegrityError: the rows are not what was backed up.
        """
        options = b" WITH (FREEZE)" if is_new else b""
        connection = self.connection  # an error up to here is not about rows
        try:
            with connection.transaction(), connection.cursor() as cursor:
                if is_new:
                    cursor.execute(b"TRUNCATE ONLY " + table.quoted)
                with self._without_triggers(table), cursor.copy(table.command + options) as copy:
                    feed(copy.write)
        except psycopg.Error as error:
            # Not chained: the original error's text quotes rows.
            raise copy_error(name, error).with_traceback(error.__traceback__) from None

    def fill_large_objects(self, contents: Sequence[tuple[int, bytes]]) -> None:
        """Fill some empty large objects, in one transaction.

        :param contents: oid and all bytes of each.
        """
        with self.connection.transaction(), self.connection.cursor() as cursor:
            # One round trip: psycopg sends the statements as a pipeline.
            cursor.executemany("select pg_catalog.lo_put(%s::oid, 0, %b)", contents)

    def fill_large_object(self, oid: int, feed: Feed) -> None:
        """Fill an empty large object of any size, in one transaction.

        :raises IntegrityError: the bytes are not what was backed up.
        """
        offset = 0

        def write(chunk: bytes) -> None:
            nonlocal offset
            self.connection.execute("select pg_catalog.lo_put(%s::oid, %s, %b)", [oid, offset, chunk])
            offset += len(chunk)

        with self.connection.transaction():
            feed(write)

    @contextlib.contextmanager
    def _without_triggers(self, table: CopyTarget) -> Iterator[None]:
        if self._options.disables_triggers:
            self._as_superuser(b"ALTER TABLE %b DISABLE TRIGGER ALL" % table.quoted)
        yield
        if self._options.disables_triggers:
            self._as_superuser(b"ALTER TABLE %b ENABLE TRIGGER ALL" % table.quoted)

    def _as_superuser(self, command: bytes) -> None:
        if self._options.superuser is None:
            self.connection.execute(command)
            return
        name = quote_name(self._options.superuser)
        self.connection.execute(in_session(f"set session authorization {name}", self.connection))
        self.connection.execute(command)
        self.connection.execute("reset session authorization")
        self._become(self.connection)
