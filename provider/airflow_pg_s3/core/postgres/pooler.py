"""The detection of transaction poolers, which lend a server's session for one transaction at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import InputError

_Connection = psycopg.Connection[tuple[Any, ...]]
# Names are qualified and the time is cast, as search_path and DateStyle are not set yet. The start time is
# included, as sessions of two servers behind a load balancer may have the same pid.
_SESSION = """
select pid, backend_start::pg_catalog.text from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())
"""
# A pool lends the session that was returned last, unless another client is faster, so that one round can miss it.
_ROUNDS = 8
# Endpoints known to keep sessions are not tested again, as a test takes a second session, which a small pool may
# not have while others work.
_keep_sessions: set[str] = set()
_SERVER = "select pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.current_setting('port')"


def refuse_transaction_pooler(connection: _Connection, endpoint: str, log_in: Callable[[], _Connection]) -> None:
    """Check that a connection keeps its session, as locks and settings would otherwise go to other clients.

    The check sets nothing, as a setting would stay in the pool.

    :param connection: a connection just after the login.
    :param endpoint: name of the endpoint; one that is known to keep sessions is not checked again.
    :param log_in: opens another connection to the endpoint.
    :raises InputError: a pooler in front of the server lends sessions for a transaction or a statement.
    :raises psycopg.OperationalError: the second connection fails.
    """
    if endpoint in _keep_sessions:
        return
    ours = _session(connection)
    # A server sends its session's pid at login; poolers make one up.
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
    assert row is not None  # every role sees its own session
    return row


def _refusal(connection: _Connection, endpoint: str) -> InputError:
    row = connection.execute(_SERVER, prepare=False).fetchone()
    assert row is not None
    return InputError(
        f"{endpoint} is a pooler that lends PostgreSQL's sessions for one transaction at a time, in which neither "
        "locks nor settings last: connect to the server's direct endpoint, which the pooler itself reaches at "
        f"{row[0] or 'its own machine'}:{row[1]}, or to a pool of sessions (pool_mode = session)"
    )
