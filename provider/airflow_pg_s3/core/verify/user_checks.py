"""The user's own checks of a restored database: queries for a single value, which must be true."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

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


def run_checks(
    checks: Sequence[str], target: ConnectionParameters, *, cancel: threading.Event, log: Log
) -> list[CheckResult]:
    """Run each check in a read-only transaction of its own.

    :raises psycopg.OperationalError: the connection was lost.
    :raises ServerError: a check failed for lack of time or of the server's resources.
    :raises Cancelled: the verification was told to stop.
    """
    results: list[CheckResult] = []
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
            log.info("check %s: %s: %s", "passed" if results[-1].passed else "FAILED", query, results[-1].detail)
    return results


def _run(query: str, connection: psycopg.Connection[tuple[Any, ...]]) -> CheckResult:
    try:
        connection.execute("begin read only")
        try:
            # A prepared statement can hold one command only.
            cursor = connection.execute(query.encode(), prepare=True)
            rows = cursor.fetchmany(2) if cursor.description else None
            columns = len(cursor.description or ())
        finally:
            connection.execute("rollback")
    except psycopg.Error as error:
        if connection.broken:
            raise
        if is_server_at_fault(error.sqlstate):
            raise ServerError(f"the check {query} could not be run: {server_error(error)}") from None
        return CheckResult(sql=query, passed=False, detail=_shorten(f"PostgreSQL says: {redacted(str(error))}"))
    if rows is None:
        return CheckResult(sql=query, passed=False, detail="is no query")
    if columns != 1 or len(rows) != 1:
        count = "no row" if not rows else "more than one row" if len(rows) > 1 else f"{columns} columns"
        return CheckResult(sql=query, passed=False, detail=f"returned {count}, not a single value")
    (value,) = rows[0]
    shown = (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value!r}, no boolean"
    )
    return CheckResult(sql=query, passed=value is True, detail=_shorten(f"returned {shown}"))


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARACTERS else line[:_DETAIL_CHARACTERS] + "…"
