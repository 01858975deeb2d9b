"""Commands that the server may refuse to a role, which is then told rather than fatal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import psycopg

from airflow_pg_s3.core.redaction import redacted

_Connection = psycopg.Connection[tuple[Any, ...]]
RIGHTS = frozenset({"42501"})  # insufficient_privilege
# Where a role may do a part of what a GRANT or REVOKE says, or nothing, the server only warns.
_NOT_GRANTED = ("01006", "01007")


def refusal(
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
