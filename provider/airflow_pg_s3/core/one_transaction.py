"""A restore that cleans, all of it in one transaction of a session of our own: it has happened, or it has not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from airflow_pg_s3.core.clean import apply_setting, drop_all, too_many_locks
from airflow_pg_s3.core.definitions import Definition
from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.core.libpq import ConnectionParameters
from airflow_pg_s3.core.load import (
    copy_table,
    fill_large_objects,
    grouped,
    is_large,
    large_objects_in,
    member_of,
    on_one_lane,
)
from airflow_pg_s3.core.loading_session import LoadingOptions, LoadingSession
from airflow_pg_s3.core.plan import made_by, make_plan
from airflow_pg_s3.core.redaction import redacted
from airflow_pg_s3.core.served import ServedArchive
from airflow_pg_s3.core.toc import Entry


def restore_in_one_transaction(
    archive: ServedArchive,
    entries: Sequence[Entry],
    script: Sequence[Definition],
    target: ConnectionParameters,
    options: LoadingOptions,
    *,
    begin: Callable[[psycopg.Connection[tuple[Any, ...]]], None],
    before_data: Callable[[psycopg.Connection[tuple[Any, ...]]], None],
    finish: Callable[[psycopg.Connection[tuple[Any, ...]]], None],
    cancel: threading.Event,
    stop: threading.Event,
) -> None:
    """Drop what the archive holds, and restore it.

    :param entries: what is restored, in the order of restoring.
    :param script: the commands, as `cleaning_script` returns them.
    :param begin: what is to be done before, in the same transaction.
    :param before_data: what is to be done between definitions and rows.
    :param finish: what is still to be done, in the same transaction.
    :param stop: set by a failure, so that downloads end.
    :raises DataConflict: what is not restored depends on what would be dropped.
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
    members = {copy.entry.dump_id: member_of(copy.entry, archive) for copy in plan.copies}
    early = {entry.dump_id for entry in plan.first}

    def work(session: LoadingSession) -> None:
        try:
            drop_and_restore(session)
        except psycopg.Error as error:
            if (advice := too_many_locks(error)) is None:
                raise
            raise advice from None

    def drop_and_restore(session: LoadingSession) -> None:
        with session.connection.transaction():
            begin(session.connection)
            drop_all(session.connection, script, archive.toc.codec)
            _define(session, [definition for definition in script[1:] if definition.dump_id in early], archive)
            before_data(session.connection)
            for copy in plan.copies:
                member = members[copy.entry.dump_id]
                # To truncate a table takes longer than to fill a small one.
                copy_table(archive, replace(copy, is_new=copy.is_new and is_large(member)), member, session)
            for group in grouped(large_objects_in(plan.large_objects, archive)):
                fill_large_objects(archive, group, session)
            _define(session, [definition for definition in script[1:] if definition.dump_id not in early], archive)
            finish(session.connection)

    on_one_lane(
        target,
        options,
        work,
        cancel=cancel,
        stop=stop,
        cancelled=f"the restore was stopped; {target.database!r} is as it was, unless it was just being committed",
    )


def _define(session: LoadingSession, definitions: Sequence[Definition], archive: ServedArchive) -> None:
    for definition in definitions:
        for statement in definition.statements:
            if statement.is_setting:
                apply_setting(session.connection, statement, archive.toc.codec)
                continue
            try:
                session.connection.execute(statement.encoded(archive.toc.codec))
            except psycopg.Error as error:
                said = f"PostgreSQL failed ({error.sqlstate}): {redacted(str(error).strip())}"
                raise (too_many_locks(error) or ServerError(f"{definition.label}: {said}")) from None
