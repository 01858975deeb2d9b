"""A restore in one transaction of a session of our own: it happens completely, or not at all."""

from __future__ import annotations

import graphlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg

from airflow_pg_s3.core.postgres.databases import run_sql
from airflow_pg_s3.core.restore.archive_restore import ArchiveRestore
from airflow_pg_s3.core.restore.clean import too_many_locks
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.copy_session import LoadingSession
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
from airflow_pg_s3.core.restore.load.plan import Copy, Plan, made_by, make_plan


def restore_in_one_transaction(restore: ArchiveRestore, folder: ArchiveFolder) -> None:
    """Run the user's commands, drop what ``clean`` drops, and restore an archive.

    :raises DataConflict: something that is not restored depends on what would be dropped.
    :raises InputError: ``data_only`` is given, and foreign keys form a circle.
    :raises ServerError: the transaction takes more locks than the server has.
    :raises psycopg.Error: the server refuses a command.
    :raises CopyError: PostgreSQL does not accept a table's rows.
    :raises IntegrityError: a member is not what was backed up.
    :raises Cancelled: the restore was told to stop.
    """
    entries = restore.archive.entries
    plan = make_plan(
        restore.archive.toc,
        entries,
        made=made_by(entries),
        is_ours=lambda _: True,
        builds_at_once=lambda _: False,
        jobs=1,
    )
    plan = replace(plan, copies=_in_order_of_keys(plan.copies, restore))

    def work(session: LoadingSession) -> None:
        try:
            with session.connection.transaction():
                _restore_all(plan, restore, folder, session)
        except psycopg.Error as error:
            if (advice := too_many_locks(error)) is None:
                raise
            raise advice from None

    database = restore.target.params.database
    on_one_lane(
        restore.target.params,
        restore.loading_options,
        work,
        cancel=restore.context.cancel,
        stop=restore.context.stop,
        cancelled=f"the restore was stopped; {database!r} is as it was, unless it was just being committed",
    )


def _in_order_of_keys(copies: Sequence[Copy], restore: ArchiveRestore) -> list[Copy]:
    """Order copies by foreign keys, which exist already with ``data_only``: referenced rows come first."""
    if not restore.context.request.wanted.data_only or restore.loading_options.disables_triggers:
        return list(copies)
    references = references_between(restore.archive.entries, restore.archive.toc, restore.target.params)
    order = {number: at for at, number in enumerate(graphlib.TopologicalSorter(references).static_order())}
    return sorted(copies, key=lambda copy: order.get(copy.entry.dump_id, -1))


def _restore_all(plan: Plan, restore: ArchiveRestore, folder: ArchiveFolder, session: LoadingSession) -> None:
    connection, request = session.connection, restore.context.request
    restore.run_as_login(connection, request.pre_restore_sql)
    restore.definer.define(connection, {entry.dump_id for entry in plan.first})
    restore.run_as_login(connection, request.pre_data_sql)
    for copy in plan.copies:
        member = member_of(copy.entry, folder)
        # Truncating a table takes longer than filling a small one.
        copy_table(folder, replace(copy, is_new=copy.is_new and is_large(member)), member, session)
    for group in grouped(large_objects_in(plan.large_objects, folder)):
        fill_large_objects(folder, group, session)
    restore.definer.complete(connection, {entry.dump_id for run in plan.rest for entry in run.entries})
    restore.link(connection)
    _run_last_commands(connection, restore)


def _run_last_commands(connection: psycopg.Connection[tuple[Any, ...]], restore: ArchiveRestore) -> None:
    commands = restore.context.request.post_restore_sql
    if commands:
        # The user's commands do not get the restore's settings.
        connection.execute("reset role")
        connection.execute("reset all")
        restore.target.params.set_up(connection)
        run_sql(connection, commands)
