"""The translation of errors of PostgreSQL and the machine into ours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, ParamSpec, TypeVar

import psycopg

from airflow_pg_s3.core.errors import CopyError, PgS3Error, ServerError
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.workspace.resources import ADVICE, is_resource_exhaustion

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Connection = psycopg.Connection[tuple[Any, ...]]
RIGHTS = frozenset({"42501"})  # insufficient_privilege
# The server only warns if a role may execute a GRANT or REVOKE in part, or not at all.
_NOT_GRANTED = ("01006", "01007")


class Unreachable(psycopg.OperationalError):
    """A server cannot be reached; the message is a sentence of ours."""


def server_error(error: psycopg.Error) -> ServerError:
    """Return an error with PostgreSQL's message, without the rows and passwords that it quotes."""
    if isinstance(error, Unreachable):
        return ServerError(redacted(str(error)))
    code = f" ({error.sqlstate})" if error.sqlstate else ""
    return ServerError(f"PostgreSQL failed{code}: {redacted(str(error).strip())}")


def copy_error(table: str, error: psycopg.Error) -> CopyError:
    """Return the error for a table whose rows PostgreSQL refuses, without the rows that the message quotes."""
    return CopyError(table, redacted(str(error).strip()), error.sqlstate)


def translate_errors(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator for the core's verbs: translates expected errors into `PgS3Error`."""

    @functools.wraps(verb)
    def checked(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        try:
            return verb(*arguments, **keywords)
        except psycopg.Error as error:
            # Not chained, as the original error's text quotes rows; its traceback is kept.
            raise server_error(error).with_traceback(error.__traceback__) from None
        except OSError as error:
            if error.errno is None or not is_resource_exhaustion(error):
                raise
            raise PgS3Error(f"{error}: {ADVICE[error.errno]}") from error

    return checked


def try_execute(
    connection: _Connection, *commands: Any, tolerated: Collection[str] = RIGHTS, heed_warnings: bool = False
) -> str | None:
    """Execute commands, all or none; return the server's reason if it refuses them, otherwise None.

    :param connection: a connection in autocommit mode; a transaction that is open stays usable.
    :param tolerated: SQLSTATEs that count as a refusal.
    :param heed_warnings: whether a warning that not everything was granted or revoked is a refusal, too.
    :raises psycopg.Error: any other error.
    """
    warnings: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        if heed_warnings and diagnostic.sqlstate in _NOT_GRANTED:
            warnings.append(diagnostic.message_primary or "")

    connection.add_notice_handler(note)
    try:
        _execute(connection, commands)
    except psycopg.Error as error:
        if error.sqlstate not in tolerated:
            raise
        return redacted(error.diag.message_primary or str(error))
    finally:
        connection.remove_notice_handler(note)
    return warnings[0] if warnings else None


def _execute(connection: _Connection, commands: Sequence[Any]) -> None:
    if len(commands) == 1 and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        connection.execute(commands[0])
    elif commands:
        with connection.transaction():
            for command in commands:
                connection.execute(command)
