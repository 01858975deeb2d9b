"""The user's own checks of a restored database: queries for a single value, which must be true."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NamedTuple

import psycopg

from airflow_pg_s3.core.errors import Cancelled, ServerError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.errors import server_error
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.verification_record import CheckResult
from airflow_pg_s3.core.verify.outcome import is_server_at_fault

TIMEOUT_SECONDS = 3600
_POLL_SECONDS = 0.2
_DETAIL_CHARACTERS = 500
# PostgreSQL refuses the query itself: its text, what it names, or that it writes.
_STATES_OF_MISTAKES = ("3F", "42", "25006")


class Checked(NamedTuple):
    """A check that was run.

    :param is_mistaken: whether it tells nothing of the database, whatever that holds.
    """

    result: CheckResult
    is_mistaken: bool = False


def run_checks(
    checks: Sequence[str], target: ConnectionParameters, *, cancel: threading.Event, log: Log
) -> list[Checked]:
    """Run each check in a read-only transaction of its own.

    :raises psycopg.OperationalError: the connection was lost.
    :raises ServerError: a check failed for lack of time or of the server's resources.
    :raises Cancelled: the verification was told to stop.
    """
    results: list[Checked] = []
    if not checks:
        return results
    with target.connect() as connection, ThreadPoolExecutor(1, thread_name_prefix="check") as pool:
        connection.execute(f"set statement_timeout = '{TIMEOUT_SECONDS}s'".encode())
        # Checks see the database as an application does, with its own search path.
        connection.execute("reset search_path")
        for query in checks:
            future = pool.submit(_run, query, connection)
            while True:
                try:
                    results.append(future.result(timeout=_POLL_SECONDS))
                    break
                except FutureTimeoutError:
                    if cancel.is_set():
                        connection.cancel()
                        raise Cancelled("stopped while the checks ran") from None
            result, is_mistaken = results[-1]
            said = "is mistaken" if is_mistaken else "passed" if result.passed else "FAILED"
            log.info("check %s: %s: %s", said, query, result.detail)
    return results


def _run(query: str, connection: psycopg.Connection[tuple[Any, ...]]) -> Checked:
    try:
        connection.execute("begin read only")
        try:
            # A prepared statement can hold one command only.
            return _judge(query, connection.execute(query.encode(), prepare=True))
        finally:
            connection.execute("rollback")
    except psycopg.Error as error:
        if connection.broken:
            raise
        if is_server_at_fault(error.sqlstate):
            raise ServerError(f"the check {query} could not be run: {server_error(error)}") from None
        is_mistaken = (error.sqlstate or "").startswith(_STATES_OF_MISTAKES)
        return _not_passed(query, f"PostgreSQL says: {redacted(str(error))}", is_mistaken=is_mistaken)


def _judge(query: str, cursor: psycopg.Cursor[tuple[Any, ...]]) -> Checked:
    if cursor.description is None:
        return _not_passed(query, "is no query", is_mistaken=True)
    if cursor.rowcount == 0:
        return _not_passed(query, "returned no row, not a single value")
    columns = len(cursor.description)
    if columns != 1:
        return _not_passed(query, f"returned {columns} columns, not a single value", is_mistaken=True)
    if cursor.rowcount > 1:
        # One that is not true counts: it may be why there is more than one.
        is_true = all(value is not None and value is not False for (value,) in cursor)
        return _not_passed(query, "returned more than one row, not a single value", is_mistaken=is_true)
    ((value,),) = cursor
    if value is None or value is False:
        return _not_passed(query, "returned null" if value is None else "returned false")
    if value is not True:
        return _not_passed(query, f"returned {value!r}, no boolean", is_mistaken=True)
    return Checked(CheckResult(sql=query, passed=True, detail="returned true"))


def _not_passed(query: str, detail: str, *, is_mistaken: bool = False) -> Checked:
    return Checked(CheckResult(sql=query, passed=False, detail=_shorten(detail)), is_mistaken)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARACTERS else line[:_DETAIL_CHARACTERS] + "…"
