"""Poolers that lend a server's session for one transaction at a time, and what tells them from a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import InputError

_Connection = psycopg.Connection[tuple[Any, ...]]
# Nothing is set yet: neither a search path, in which others may have put functions and operators, nor a DateStyle.
# With the moment of its start, as behind a load balancer sessions of two servers may have one pid.
_SESSION = """
select pid, backend_start::pg_catalog.text from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())
"""
# A pool lends what was given back last, unless another client is quicker: each round would find that by itself.
_ROUNDS = 8
# Asked once: each question takes a second session, which a small pool may not have while others work.
_keep_sessions: set[str] = set()
_SERVER = "select pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.current_setting('port')"


def refuse_transaction_pooler(connection: _Connection, endpoint: str, log_in: Callable[[], _Connection]) -> None:
    """Make sure that a connection keeps its session: locks, settings and cursors would be other clients' else.

    Nothing is set, as that would stay in the pool.

    :param connection: as it is after the login.
    :param endpoint: names the place; what has been seen to keep sessions is not asked again.
    :param log_in: makes another one to the same place.
    :raises InputError: what is in front of the server lends sessions for a transaction, or for a statement.
    :raises psycopg.OperationalError: the server cannot be reached once more.
    """
    if endpoint in _keep_sessions:
        return
    ours = _session(connection)
    # Whoever talks to the server itself has got the session's pid with the login; poolers make one up.
    if ours[0] == connection.info.backend_pid:
        return
    with log_in() as other:
        theirs = _session(other)
        for _ in range(_ROUNDS):
            if ours == theirs or _session(connection) != ours or _session(other) != theirs:
                raise _refusal(connection, endpoint)
    _keep_sessions.add(endpoint)


def _session(connection: _Connection) -> tuple[Any, ...]:
    row = connection.execute(_SESSION, prepare=False).fetchone()
    assert row is not None  # every role sees itself
    return row


def _refusal(connection: _Connection, endpoint: str) -> InputError:
    row = connection.execute(_SERVER, prepare=False).fetchone()
    assert row is not None
    return InputError(
        f"{endpoint} is a pooler that lends PostgreSQL's sessions for one transaction at a time, in which neither "
        "locks nor settings last: connect to the server's direct endpoint, which the pooler itself reaches at "
        f"{row[0] or 'its own machine'}:{row[1]}, or to a pool of sessions (pool_mode = session)"
    )
