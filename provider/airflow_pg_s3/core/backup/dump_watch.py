"""What a running pg_dump is doing, as its server sees it: which tables it reads, and whose locks it waits for.

pg_dump itself says neither. Without a wait limit it waits for a lock until it gets it.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import psycopg

from airflow_pg_s3.core import reporting

_Row = tuple[Any, ...]
_PATIENCE_SECONDS = 2.0
_OURS = "a.datname = current_database() and a.usename = session_user and a.application_name = %s"
_READS = f"""
select relid::regclass::text, tuples_processed, reltuples::bigint
from pg_stat_progress_copy join pg_stat_activity a using (pid) join pg_class c on c.oid = relid
where command = 'COPY TO' and {_OURS} order by 1
"""
_HAS_PROGRESS_OF_COPY = 140000
# Each who is waited for, and those that these wait for in turn.
_WAITS = f"""
with recursive wait (waiter, holder, depth) as (
    select pid, unnest(pg_blocking_pids(pid)), 1 from pg_stat_activity a where wait_event_type = 'Lock' and {_OURS}
    union
    select holder, unnest(pg_blocking_pids(holder)), depth + 1 from wait where depth < 4
), holders as (select holder, min(depth) as depth from wait group by holder)
select (select coalesce(relation::regclass::text, locktype) from pg_locks
        where pid = (select min(waiter) from wait where depth = 1) and not granted limit 1),
       holder, usename, coalesce(nullif(application_name, ''), backend_type), state, xact_start
from holders left join pg_stat_activity on pid = holder order by depth, holder
"""


class DumpWatch:
    """Polls the server while a block runs, on its own thread: a server that does not answer must delay nothing.

    :param connection: to the same database, as the same user; others may use it meanwhile.
    :param application: pg_dump's ``application_name``.
    """

    def __init__(self, connection: psycopg.Connection[_Row], application: str) -> None:
        self.said = ""
        self._connection = connection
        self._application = application
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch pg_dump", daemon=True)

    def __enter__(self) -> DumpWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(_PATIENCE_SECONDS)

    def _watch(self) -> None:
        while not self._end.wait(reporting.INTERVAL_SECONDS / 2):
            said = ""
            # Whether the session is lost is not for the progress to say; nor are names that are no UTF-8.
            with contextlib.suppress(psycopg.Error, UnicodeDecodeError):
                # Within the transaction that shares a snapshot, a session sees others as they were at first.
                self._connection.execute("select pg_stat_clear_snapshot()")
                said = "; ".join(filter(None, [self._reads(), self._waits()]))
            self.said = said

    def _reads(self) -> str:
        if self._connection.info.server_version < _HAS_PROGRESS_OF_COPY:
            return ""
        rows = self._connection.execute(_READS, [self._application]).fetchall()
        tables = [
            f"{table} (row {row:,}{f' of about {all_:,}' if all_ >= row else ''})" for table, row, all_ in rows
        ]
        return f"at {', '.join(tables)}" if tables else ""

    def _waits(self) -> str:
        rows = self._connection.execute(_WAITS, [self._application]).fetchall()
        if not rows:
            return ""
        return f"pg_dump waits for a lock on {rows[0][0]}, held by {', behind '.join(map(_holder, rows))}"


def _holder(row: _Row) -> str:
    _, pid, user, application, state, since = row
    if pid == 0:
        return "a prepared transaction (see pg_prepared_xacts)"
    # Not every role may see what others are doing.
    doing = f"{state}, its transaction began {since:%Y-%m-%d %H:%M:%S} UTC" if since else state
    return f"pid {pid} ({', '.join(filter(None, [user, application, doing]))})"
