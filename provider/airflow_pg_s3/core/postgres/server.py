"""Facts about a PostgreSQL server, and snapshots that only its own sessions can share."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg import sql

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.encodings import codec_of
from airflow_pg_s3.core.record import Record

_Connection = psycopg.Connection[tuple[Any, ...]]
_POLL_SECONDS = 0.1
_CANCEL_SECONDS = 5.0
# Composite types are in pg_attribute, too. The system's own objects (oids below 16384) that use money are
# functions.
_HAS_MONEY = """
with money as (select unnest(array['money'::regtype, 'money[]'::regtype]) as type)
select exists (select from pg_attribute join money on atttypid = type where attnum > 0 and not attisdropped)
    or exists (select from pg_type join money on typbasetype = type)
    or exists (select from pg_range join money on rngsubtype = type)
    or exists (select from pg_proc p join money on type = any (proargtypes) where p.oid >= 16384)
"""


class Extension(Record):
    """An installed extension."""

    name: str
    version: str


class Server(Record):
    """The source server and database, with what a restore needs to know.

    :param version_num: ``server_version_num``.
    :param system_identifier: the cluster's identifier; None if the role may not read it.
    :param locale_provider: ``libc``, ``icu`` or ``builtin``.
    :param locale: the ICU or builtin locale; None for libc.
    """

    version: str
    version_num: int
    system_identifier: str | None
    host: str
    encoding: str
    collate: str
    ctype: str
    locale_provider: str
    locale: str | None
    icu_rules: str | None
    extensions: list[Extension]

    @property
    def codec(self) -> str:
        """Python's codec for `encoding`; see `codec_of`."""
        return codec_of(self.encoding)


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """Facts about a server and one of its databases, at one moment.

    :param server: the facts that the manifest records.
    :param now: time of the server's clock.
    :param started_at: start time of the server process; it differs between a server and its standbys, which have
        the same system identifier.
    :param size_bytes: ``pg_database_size``.
    :param options: ``PGOPTIONS`` for pg_dump: defaults for settings that would otherwise change the text of
        values.
    :param lc_monetary: the locale in which to write money values; None if there are none.
    """

    server: Server
    now: datetime
    started_at: datetime
    size_bytes: int
    options: str
    lc_monetary: Literal["C"] | None

    @property
    def instance(self) -> str:
        """Name of the running server process, which holds the advisory locks of live backups."""
        return f"{self.server.system_identifier}/{self.started_at.isoformat()}"


def inspect(connection: _Connection, params: ConnectionParameters) -> ServerFacts:
    """Read the facts about a server and the connected database."""
    version_num = connection.info.server_version
    row = _row(
        connection,
        """
        select current_setting('server_version'), pg_encoding_to_char(encoding), datcollate, datctype,
               facts ->> 'datlocprovider', coalesce(facts ->> 'datlocale', facts ->> 'daticulocale'),
               facts ->> 'daticurules', clock_timestamp(), pg_postmaster_start_time(), pg_database_size(oid)
        from pg_database d, to_jsonb(d) facts where datname = current_database()
        """,
    )
    version, encoding, collate, ctype, provider, locale, icu_rules, now, started_at, size = row
    extensions = connection.execute("select extname, extversion from pg_extension order by extname").fetchall()
    # Only settings that differ from their default become options, as poolers refuse options.
    changed = connection.execute(
        "select name, boot_val from pg_settings "
        "where name in ('bytea_output', 'quote_all_identifiers') and setting <> boot_val"
    ).fetchall()
    return ServerFacts(
        server=Server(
            version=version.split(" ")[0],
            version_num=version_num,
            system_identifier=_system_identifier(connection),
            host=params.host,
            encoding=encoding,
            collate=collate,
            ctype=ctype,
            locale_provider={None: "libc", "c": "libc", "i": "icu", "b": "builtin"}.get(provider, provider),
            locale=locale,
            icu_rules=icu_rules,
            extensions=[Extension(name=name, version=text) for name, text in extensions],
        ),
        now=now,
        started_at=started_at,
        size_bytes=size,
        options=" ".join(f"-c {name}={value}" for name, value in changed),
        lc_monetary="C" if _row(connection, _HAS_MONEY)[0] else None,
    )


@contextmanager
def shared_snapshot(
    connection: _Connection,
    facts: ServerFacts,
    *,
    given: str | None,
    is_serializable: bool,
    cancel: threading.Event,
) -> Iterator[str | None]:
    """Context manager: export a snapshot for pg_dump.

    Only sessions of one server can share a snapshot, so this proves that the whole dump is of that server. In the
    block, `connection` is in a transaction.

    :param facts: facts about the server that `connection` must lead to.
    :param given: a snapshot to share; None for a new one.
    :param is_serializable: whether to take one as ``pg_dump --serializable-deferrable`` does, perhaps after a
        wait.
    :return: the snapshot; None if `connection` leads to another server.
    :raises Cancelled: `cancel` was set during the wait.
    """
    level = "serializable, read only, deferrable" if is_serializable else "repeatable read, read only"
    begin = sql.SQL("begin isolation level {}").format(sql.SQL(level))
    if given is not None:
        # In the same round trip: SET TRANSACTION SNAPSHOT must come before any query, and other threads query over
        # this connection.
        begin += sql.SQL("; set transaction snapshot {}").format(sql.Literal(given))
    with _interrupted_by(cancel, connection):
        connection.execute(begin)
        snapshot, started_at = _row(connection, "select pg_export_snapshot(), pg_postmaster_start_time()")
    known = facts.server.system_identifier
    is_same = known is None or _system_identifier(connection) == known
    yield (given or snapshot) if is_same and started_at == facts.started_at else None
    # No rollback after an error: the server may not answer, and the transaction ends with its session. A lost
    # session is reported by `confirm_lock`.
    with suppress(psycopg.Error):
        connection.execute("rollback")


@contextmanager
def _interrupted_by(cancel: threading.Event, connection: _Connection) -> Iterator[None]:
    """Context manager: cancel the connection's query when `cancel` is set."""
    end = threading.Event()

    def watch() -> None:
        while not end.wait(_POLL_SECONDS):
            if cancel.is_set():
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=_CANCEL_SECONDS)
                return

    thread = threading.Thread(target=watch, name="watch a wait", daemon=True)
    thread.start()
    try:
        yield
    except psycopg.errors.QueryCanceled:
        if cancel.is_set():
            raise Cancelled("the backup was stopped while it waited for a snapshot; nothing was stored") from None
        raise
    finally:
        end.set()
        thread.join()


def advisory_key(purpose: str) -> int:
    """Return the key of the advisory lock for a purpose."""
    return int.from_bytes(hashlib.sha256(f"airflow-pg-s3 {purpose}".encode()).digest()[:8], signed=True)


def _system_identifier(connection: _Connection) -> str | None:
    try:
        return str(_row(connection, "select system_identifier from pg_control_system()")[0])
    except psycopg.errors.InsufficientPrivilege:
        return None


def _row(connection: _Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    if row is None:
        raise LookupError(query)
    return row
