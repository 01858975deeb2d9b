"""An archive's definitions, created by our own sessions before and after the rows."""

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
    """Creates definitions before and after the rows, which a loader loads."""

    @property
    def entries_to_load(self) -> list[Entry]:
        """The entries that a loader restores between `define` and `complete`."""

    @property
    def options(self) -> list[str]:
        """pg_restore's options for `entries_to_load`."""

    def define(self, connection: _Connection, early: Collection[int] = ()) -> None:
        """Drop what ``clean`` drops, and create what must exist before the rows.

        :param early: dump ids out of `entries_to_load` that are to be created here as well.
        """

    def complete(self, connection: _Connection, late: Collection[int] = ()) -> None:
        """Create what must come after the rows.

        :param late: dump ids out of `entries_to_load` that are to be created here as well, before the others.
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
        """Implement `Definer`; raises as `Cleaning.run`, and ServerError if the server refuses a command."""
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
        """Implement `Definer`; raises ServerError if the server refuses a command."""
        for definition in self._script[1:] if late else ():
            run_definition(connection, definition, self._archive.toc.codec, late)

    @cached_property
    def _script(self) -> list[Definition]:
        return self._archive.definitions(
            self._archive.entries, [*self._archive.options, *(CLEAN if self._clean else [])]
        )


def run_definition(connection: _Connection, definition: Definition, codec: str, wanted: Collection[int]) -> None:
    """Run an entry's commands if it is wanted, and its settings in any case, as they hold for later entries.

    :param wanted: dump ids of the wanted entries.
    :raises ServerError: the server refuses a command.
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
            message = f"PostgreSQL failed ({error.sqlstate}): {redacted(str(error).strip())}"
            raise (too_many_locks(error) or ServerError(f"{definition.label}: {message}")) from None
