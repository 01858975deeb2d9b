"""Keeps sessions alive that idle for hours: NATs, proxies and meshes drop connections that idle for minutes."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from airflow_pg_s3.core.errors import Cancelled, ServerError

_Connection = psycopg.Connection[tuple[Any, ...]]
_PING_SECONDS = 20.0
# TCP must acknowledge sent data within this time. It does so even if the server is busy, as a ping is small.
_ACKNOWLEDGED_SECONDS = 30.0
_PATIENCE_SECONDS = 5.0


class Heartbeat:
    """Context manager: pings a session that must last, and notices within a minute if it is lost.

    The connection may be used meanwhile, but not for COPY.

    :param what: the session's purpose, for the message.
    :param cancel: set if the session is lost, so that the work ends; None to let it go on.
    :raises ServerError: the session was lost; raised on exit in place of `Cancelled` and psycopg's own error.
    """

    def __init__(self, connection: _Connection, what: str, cancel: threading.Event | None = None) -> None:
        self._connection = connection
        self._what = what
        self._cancel = cancel
        self._end = threading.Event()
        self._loss: psycopg.Error | None = None

    def __enter__(self) -> Heartbeat:
        with contextlib.suppress(OSError), _socket_of(self._connection) as ours:
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_ACKNOWLEDGED_SECONDS * 1000))
        self._thread = threading.Thread(target=self._ping, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(None if error is None else _PATIENCE_SECONDS)
        if self._thread.is_alive():
            # The server does not answer, and must not delay the exit.
            cut_off(self._connection)
            self._thread.join()
        if self._loss is not None and self._cancel is not None:
            self._cancel.clear()  # the event is the caller's
            if isinstance(error, (Cancelled, psycopg.OperationalError)):
                raise ServerError(f"{self._what} was lost: {self._loss}") from self._loss

    def _ping(self) -> None:
        while not self._end.wait(_PING_SECONDS):
            try:
                self._connection.execute("select 1", prepare=False)
            except psycopg.Error as error:
                if not self._connection.closed:
                    continue  # within a transaction that has failed
                # Not a loss if the connection was closed by its owner, or the work is being cancelled.
                if self._connection.broken and not (self._cancel is not None and self._cancel.is_set()):
                    self._loss = error
                    if self._cancel is not None:
                        self._cancel.set()
                return


def cut_off(connection: _Connection) -> None:
    """Break another thread's connection, whatever it is doing; that thread gets an error."""
    with contextlib.suppress(OSError, psycopg.Error), _socket_of(connection) as ours:
        ours.shutdown(socket.SHUT_RDWR)


def is_stale(connection: _Connection, used: float) -> bool:
    """True if a connection has idled for so long that it may have been dropped, and holds no transaction.

    :param used: time of its last use, in seconds of `time.monotonic`.
    """
    is_idle = connection.info.transaction_status == TransactionStatus.IDLE
    return is_idle and time.monotonic() - used > _PING_SECONDS


@contextlib.contextmanager
def _socket_of(connection: _Connection) -> Iterator[socket.socket]:
    # A duplicate descriptor, as closing the socket object must not close libpq's.
    with socket.socket(fileno=os.dup(connection.fileno())) as ours:
        yield ours
