"""The edge of the core's verbs: what PostgreSQL or the machine refuses leaves it as one of our errors."""

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
# Where a role may do a part of what a GRANT or REVOKE says, or nothing, the server only warns.
_NOT_GRANTED = ("01006", "01007")


def server_error(error: psycopg.Error) -> ServerError:
    """What PostgreSQL says, without the rows and passwords that it quotes."""
    code = f" ({error.sqlstate})" if error.sqlstate else ""
    return ServerError(f"PostgreSQL failed{code}: {redacted(str(error).strip())}")


def copy_error(table: str, error: psycopg.Error) -> CopyError:
    """What PostgreSQL says of a table's rows, without the rows and passwords that it quotes."""
    return CopyError(table, redacted(str(error).strip()), error.sqlstate)


def translate_errors(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a verb: it raises nothing but `PgS3Error`, unless it has a bug."""

    @functools.wraps(verb)
    def checked(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        try:
            return verb(*arguments, **keywords)
        except psycopg.Error as error:
            # Not chained, as its own text quotes rows; but where it happened is kept.
            raise server_error(error).with_traceback(error.__traceback__) from None
        except OSError as error:
            if error.errno is None or not is_resource_exhaustion(error):
                raise
            raise PgS3Error(f"{error}: {ADVICE[error.errno]}") from error

    return checked


def try_execute(
    connection: _Connection, *commands: Any, tolerated: Collection[str] = RIGHTS, heed_warnings: bool = False
) -> str | None:
    """Execute commands, all or none; say why the server has refused them, if it has.

    :param connection: in autocommit mode; in a transaction or not, which goes on.
    :param tolerated: SQLSTATEs that count as a refusal.
    :param heed_warnings: whether a warning that not all was granted or revoked counts as one, too.
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
