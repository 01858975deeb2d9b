"""What ``if_exists="clean"`` drops in the target: what the archive holds, by pg_restore's own commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.definitions import Definition, Statement, definitions_of
from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.core.pg_restore import use_list
from airflow_pg_s3.core.redaction import redacted
from airflow_pg_s3.core.toc import Entry

_Connection = psycopg.Connection[tuple[Any, ...]]
_FIRST_WITH_TRANSACTION_TIMEOUT = 170000
_INHERITED_CONSTRAINT = "42P16"
_DATA = ("TABLE DATA", "BLOBS")


def cleaning_script(
    archive: Path, entries: Sequence[Entry], *, tools: ClientTools, codec: str, options: Sequence[str]
) -> list[Definition]:
    """Ask pg_restore for all commands of a restore, but those that carry rows.

    The first definition is that of the settings, and of what is dropped.

    :param archive: a file, or a folder of which only toc.dat must be there. The folder around it is written to.
    :param codec: Python codec of the archive's encoding.
    :param options: the user's, for pg_restore.
    :raises ClientProgramError: pg_restore cannot read the archive.
    """
    file = archive.parent / "clean.list"
    use_list(file, [entry.dump_id for entry in entries if entry.kind not in _DATA])
    arguments = ["--clean", "--if-exists", *options]
    return definitions_of(archive, file, tools=tools, codec=codec, arguments=arguments)


def apply_setting(connection: _Connection, statement: Statement, codec: str) -> None:
    """Set what holds for the commands behind it, unless the server does not know it, and does not need it."""
    is_unknown = connection.info.server_version < _FIRST_WITH_TRANSACTION_TIMEOUT
    if not (is_unknown and statement.begins("SET", "TRANSACTION_TIMEOUT")):
        connection.execute(statement.encoded(codec))


def drop(connection: _Connection, statement: Statement, codec: str) -> None:
    """Drop an object, unless it is the key of a partition, which goes with the partition.

    pg_restore drops it before the partitioned table's own, which the server refuses.

    :raises psycopg.Error: the server refuses.
    """
    command = statement.encoded(codec)
    if not any(word.is_bare("CONSTRAINT") for word in statement.said):
        connection.execute(command)
        return
    try:
        with connection.transaction():
            connection.execute(command)
    except psycopg.Error as error:
        if error.sqlstate != _INHERITED_CONSTRAINT:
            raise


def drop_all(connection: _Connection, script: Sequence[Definition], codec: str) -> None:
    """Drop what the archive holds, as far as it is there.

    :param script: as `cleaning_script` returns it.
    :raises ServerError: the server refuses, as what is not in the archive depends on it, or for another reason.
    """
    for statement in script[0].statements:
        if statement.is_setting:
            apply_setting(connection, statement, codec)
            continue
        try:
            drop(connection, statement, codec)
        except psycopg.Error as error:
            said = redacted(str(error).strip())
            raise ServerError(f"{statement.on_one_line}: PostgreSQL failed ({error.sqlstate}): {said}") from None
