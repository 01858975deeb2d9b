"""What ``if_exists="clean"`` drops in the target: what the archive holds, by pg_restore's own commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.definitions import Definition, Statement, definitions_of
from airflow_pg_s3.core.encodings import psycopg_knows
from airflow_pg_s3.core.errors import DataConflict, InputError, ServerError
from airflow_pg_s3.core.pg_restore import use_list
from airflow_pg_s3.core.progress import Log
from airflow_pg_s3.core.redaction import redacted
from airflow_pg_s3.core.toc import Entry

_Connection = psycopg.Connection[tuple[Any, ...]]
_FIRST_WITH_TRANSACTION_TIMEOUT = 170000
_INHERITED_CONSTRAINT = "42P16"
DEPENDENT_OBJECTS = "2BP01"
LOCKS_ADVICE = "raise max_locks_per_transaction on the server, or give single_transaction=False"
_DATA = ("TABLE DATA", "BLOBS")


class TooManyLocks(ServerError):
    """The server has not as many locks as a transaction takes."""


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


def check_encoding(encoding: str) -> None:
    """Refuse an archive whose commands cannot be run by us.

    :param encoding: of the archive, as PostgreSQL names it.
    :raises InputError: psycopg does not know it.
    """
    if not psycopg_knows(encoding):
        raise InputError(
            f"if_exists='clean' does not work with an archive in the encoding {encoding}, which psycopg does not "
            "know: give if_exists='replace', or an empty database"
        )


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
    """Drop what the archive holds, as far as it is there, or nothing.

    :param script: as `cleaning_script` returns it.
    :raises DataConflict: what is not in the archive depends on something of it.
    :raises TooManyLocks: they are too many for one transaction.
    :raises ServerError: the server refuses for another reason.
    """
    with connection.transaction():
        for statement in script[0].statements:
            if statement.is_setting:
                apply_setting(connection, statement, codec)
            else:
                _drop_or_explain(connection, statement, codec)


def drop_for_good(connection: _Connection, script: Sequence[Definition], codec: str, log: Log) -> None:
    """Drop what the archive holds, before it is restored by other sessions; raises as `drop_all`."""
    try:
        drop_all(connection, script, codec)
    except TooManyLocks as error:
        log.warning("what the backup holds is dropped one by one: %s", error)
        for statement in script[0].statements:
            if not statement.is_setting:
                _drop_or_explain(connection, statement, codec)


def too_many_locks(error: psycopg.Error) -> TooManyLocks | None:
    """Return the error that says what to do, if a transaction has taken more locks than the server has."""
    if "max_locks_per_transaction" not in (error.diag.message_hint or ""):
        return None
    return TooManyLocks(
        f"PostgreSQL failed ({error.sqlstate}): {error.diag.message_primary}: {LOCKS_ADVICE}; nothing was changed"
    )


def dependants(error: psycopg.Error) -> DataConflict:
    """Name what keeps an object from being dropped.

    :param error: of the SQLSTATE `DEPENDENT_OBJECTS`.
    """
    said = redacted(error.diag.message_primary or str(error))
    others = "; ".join((error.diag.message_detail or "").splitlines())
    return DataConflict(
        f"if_exists='clean': {said} that are not in what is restored, and nothing was dropped: {others}. Select "
        "these as well, if the backup has them, or drop them first, or restore into another database"
    )


def _drop_or_explain(connection: _Connection, statement: Statement, codec: str) -> None:
    try:
        drop(connection, statement, codec)
    except psycopg.Error as error:
        if error.sqlstate == DEPENDENT_OBJECTS:
            raise dependants(error) from None
        said = redacted(str(error).strip())
        raise (
            too_many_locks(error)
            or ServerError(f"{statement.on_one_line}: PostgreSQL failed ({error.sqlstate}): {said}")
        ) from None
