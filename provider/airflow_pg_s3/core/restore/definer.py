"""Definitions of an archive, created by sessions of our own before the rows and after them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any, Protocol

import psycopg

from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.core.postgres.archive.definitions import Definition
from airflow_pg_s3.core.postgres.archive.toc import Entry
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.restore.clean import CLEAN, Cleaning, apply_setting, too_many_locks
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive

_Connection = psycopg.Connection[tuple[Any, ...]]


class Definer(Protocol):
    """Creates definitions before the rows and after them; others load the rows."""

    @property
    def entries_to_load(self) -> list[Entry]:
        """What others restore between `define` and `complete`."""

    @property
    def options(self) -> list[str]:
        """Options of pg_restore for that."""

    def define(self, connection: _Connection, early: Collection[int] = ()) -> None:
        """Drop what is to be dropped, and create what must be there before the rows.

        :param early: dump ids of what else is to be created, which would be in `entries_to_load`.
        """

    def complete(self, connection: _Connection, late: Collection[int] = ()) -> None:
        """Create what must come after the rows.

        :param late: dump ids of what is to be created before that, which would be in `entries_to_load`.
        """


class PlainDefiner:
    """Runs an archive's commands as they are; the server must take each of them."""

    def __init__(self, archive: OpenedArchive, context: RestoreContext) -> None:
        self.entries_to_load = archive.entries
        self.options = list(archive.options)
        self._archive = archive
        self._context = context
        self._clean = context.request.if_exists == "clean"

    def define(self, connection: _Connection, early: Collection[int] = ()) -> None:
        """As `Definer`; raises as `Cleaning.run`, and ServerError where the server refuses a command."""
        if self._clean:
            Cleaning(
                self._script[0],
                self._archive.entries,
                self._archive.toc.codec,
                self._context,
                one_by_one=not self._context.request.single_transaction,
            ).run(connection)
        self.complete(connection, early)

    def complete(self, connection: _Connection, late: Collection[int] = ()) -> None:
        """As `Definer`; raises ServerError where the server refuses a command."""
        for definition in self._script[1:] if late else ():
            run_definition(connection, definition, self._archive.toc.codec, late)

    @cached_property
    def _script(self) -> list[Definition]:
        return self._archive.definitions(
            self._archive.entries, [*self._archive.options, *(CLEAN if self._clean else [])]
        )


def run_definition(connection: _Connection, definition: Definition, codec: str, wanted: Collection[int]) -> None:
    """Run the commands of an entry, if it is wanted, and in any case the settings, which hold for those behind it.

    :param wanted: dump ids.
    :raises ServerError: the server refuses one.
    """
    for statement in definition.statements:
        if statement.is_setting:
            apply_setting(connection, statement, codec)
            continue
        if definition.dump_id not in wanted:
            continue
        try:
            connection.execute(statement.encoded(codec))
        except psycopg.Error as error:
            said = f"PostgreSQL failed ({error.sqlstate}): {redacted(str(error).strip())}"
            raise (too_many_locks(error) or ServerError(f"{definition.label}: {said}")) from None
