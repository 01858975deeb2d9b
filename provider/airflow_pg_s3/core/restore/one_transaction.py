"""A restore in one transaction of a session of our own: it has happened, or it has not."""

from __future__ import annotations

import graphlib
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import psycopg

from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.core.postgres.archive.definitions import Definition
from airflow_pg_s3.core.postgres.archive.toc import Entry
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.restore.clean import Cleaning, apply_setting, too_many_locks
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.copy_session import LoadingOptions, LoadingSession
from airflow_pg_s3.core.restore.load.load import (
    copy_table,
    fill_large_objects,
    grouped,
    is_large,
    large_objects_in,
    member_of,
    on_one_lane,
    references_between,
)
from airflow_pg_s3.core.restore.load.plan import made_by, make_plan

_Connection = psycopg.Connection[tuple[Any, ...]]


class Definer(Protocol):
    """Creates what an archive defines, in a transaction that is under way."""

    def define(self, connection: _Connection, early: Collection[int]) -> None:
        """Drop what is to be dropped, and create what must be there before the rows.

        :param early: dump ids.
        """

    def complete(self, connection: _Connection, late: Collection[int]) -> None:
        """Create the others."""


@dataclass(frozen=True)
class PlainDefiner:
    """Runs the archive's commands, each of which the server must take.

    :param script: the settings, and the commands of the entries.
    :param cleaning: what is dropped before; None for nothing.
    :param codec: Python codec of the archive's encoding.
    """

    script: Sequence[Definition]
    cleaning: Cleaning | None
    codec: str

    def define(self, connection: _Connection, early: Collection[int]) -> None:
        """As `Definer`; raises as `Cleaning.run`, and ServerError where the server refuses a command."""
        if self.cleaning is not None:
            self.cleaning.run(connection)
        self.complete(connection, early)

    def complete(self, connection: _Connection, late: Collection[int]) -> None:
        """As `Definer`; raises ServerError where the server refuses a command."""
        for definition in self.script[1:]:
            run_definition(connection, definition, self.codec, late)


def restore_in_one_transaction(
    archive: ArchiveFolder,
    entries: Sequence[Entry],
    definer: Definer,
    target: ConnectionParameters,
    options: LoadingOptions,
    *,
    data_only: bool,
    begin: Callable[[_Connection], None],
    before_data: Callable[[_Connection], None],
    finish: Callable[[_Connection], None],
    cancel: threading.Event,
    stop: threading.Event,
) -> None:
    """Drop what is to be dropped, and restore an archive.

    :param entries: what is restored, in the order of restoring.
    :param begin: what is to be done before, in the same transaction.
    :param before_data: what is to be done between definitions and rows.
    :param finish: what is still to be done, in the same transaction.
    :param stop: set by a failure, so that downloads end.
    :raises DataConflict: what is not restored depends on what would be dropped.
    :raises InputError: data alone, and foreign keys refer to each other.
    :raises ServerError: it takes more locks than the server has.
    :raises psycopg.Error: the server refuses a command.
    :raises CopyError: PostgreSQL does not take a table's rows.
    :raises IntegrityError: a member is not what was backed up.
    :raises Cancelled: told to stop.
    """
    plan = make_plan(
        archive.toc,
        entries,
        made=made_by(entries),
        is_ours=lambda _: True,
        builds_at_once=lambda _: False,
        jobs=1,
    )
    copies = plan.copies
    if data_only and not options.disables_triggers:
        references = references_between(entries, archive.toc, target)
        order = {number: at for at, number in enumerate(graphlib.TopologicalSorter(references).static_order())}
        copies = sorted(copies, key=lambda copy: order.get(copy.entry.dump_id, -1))
    members = {copy.entry.dump_id: member_of(copy.entry, archive) for copy in copies}
    early = {entry.dump_id for entry in plan.first}
    late = {entry.dump_id for run in plan.rest for entry in run.entries}

    def work(session: LoadingSession) -> None:
        try:
            restore(session)
        except psycopg.Error as error:
            if (advice := too_many_locks(error)) is None:
                raise
            raise advice from None

    def restore(session: LoadingSession) -> None:
        with session.connection.transaction():
            begin(session.connection)
            definer.define(session.connection, early)
            before_data(session.connection)
            for copy in copies:
                member = members[copy.entry.dump_id]
                # To truncate a table takes longer than to fill a small one.
                copy_table(archive, replace(copy, is_new=copy.is_new and is_large(member)), member, session)
            for group in grouped(large_objects_in(plan.large_objects, archive)):
                fill_large_objects(archive, group, session)
            definer.complete(session.connection, late)
            finish(session.connection)

    on_one_lane(
        target,
        options,
        work,
        cancel=cancel,
        stop=stop,
        cancelled=f"the restore was stopped; {target.database!r} is as it was, unless it was just being committed",
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
