"""The drops of ``if_exists="clean"``: what the archive holds is dropped in the target by pg_restore's commands."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import DataConflict, InputError, PgS3Error, ServerError
from airflow_pg_s3.core.postgres.archive.definitions import Definition, Statement
from airflow_pg_s3.core.postgres.archive.toc import RELATIONS, Entry
from airflow_pg_s3.core.postgres.encodings import psycopg_knows
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.postgres.subscriptions import detach
from airflow_pg_s3.core.restore.context import RestoreContext

_Connection = psycopg.Connection[tuple[Any, ...]]
_FIRST_WITH_TRANSACTION_TIMEOUT = 170000
_INHERITED_CONSTRAINT = "42P16"
_UNDEFINED_COLUMN = "42703"
_DEPENDENT_OBJECTS = "2BP01"
# A line of what the server says of them: "constraint k on table a depends on table b", "view v depends on …".
_DEPENDENT_TABLE = re.compile(
    r"^(?:\w+ \S+ on )?(?:foreign )?(?:table|(?:materialized )?view) (\S+) depends on ", re.M
)
CLEAN = ("--clean", "--if-exists")
LOCKS_ADVICE = "raise max_locks_per_transaction on the server, or give single_transaction=False"
# Deletes the rows of extensions' configuration tables that pg_dump includes in a dump.
_DELETE_ROWS_OF_EXTENSIONS = """
select format('delete from %%I.%%I %%s', nspname, relname, extcondition[array_position(extconfig, c.oid)])
from unnest(%s::text[], %s::text[]) with ordinality as restored (schema, name, number)
join pg_namespace n on nspname = schema join pg_class c on relnamespace = n.oid and relname = name
join pg_extension on c.oid = any(extconfig) where relkind in ('r', 'p') order by number desc
"""
# All other relations that need the given ones, or one another: by foreign keys, or as views. In UTF-8, as nobody
# knows what bytes a database without an encoding holds.
_DEPENDENTS = """
with recursive given as (
    select c.oid from unnest(%s::text[], %s::text[]) as given (schema, name)
    join pg_namespace n on nspname = schema join pg_class c on relnamespace = n.oid and relname = name
), ties (needed, dependent) as (
    select confrelid, conrelid from pg_constraint where contype = 'f' and conparentid = 0
    union all
    select refobjid, ev_class from pg_depend join pg_rewrite r on objid = r.oid
    where classid = 'pg_rewrite'::regclass and refclassid = 'pg_class'::regclass
), found as (
    select oid from given union select dependent from found join ties on needed = found.oid
)
select convert_to(format('%%I.%%I', nspname, relname), 'UTF8')
from found join pg_class c using (oid) join pg_namespace n on n.oid = relnamespace
where c.oid not in (select oid from given) order by 1
"""


class TooManyLocks(ServerError):
    """A transaction takes more locks than the server has."""


@dataclass(frozen=True)
class Cleaning:
    """The drops before a restore.

    :param commands: pg_restore's settings and DROP commands, which come before all entries.
    :param entries: the entries to restore.
    :param codec: Python codec of the archive's encoding.
    :param tolerated: SQLSTATEs with which the server may refuse a drop; the object then stays.
    :param one_by_one: drop each object by itself if one transaction would take too many locks.
    """

    commands: Definition
    entries: Sequence[Entry]
    codec: str
    context: RestoreContext
    tolerated: Collection[str] = ()
    one_by_one: bool = False

    def run(self, connection: _Connection) -> None:
        """Drop those of the archive's objects that exist, all or none.

        :raises DataConflict: objects that are not in the archive depend on some that are; the message names all.
        :raises TooManyLocks: one transaction would take more locks than the server has.
        :raises ServerError: the server refuses for another reason.
        """
        try:
            warnings = self._run_in_transaction(connection)
        except TooManyLocks as error:
            if not self.one_by_one:
                raise
            self.context.log.warning("what the backup holds is dropped one by one: %s", error)
            warnings = self._run_one_by_one(connection)
        for warning in warnings:
            self.context.warn(warning)

    def _run_in_transaction(self, connection: _Connection) -> list[str]:
        with connection.transaction():
            for statement in self.commands.statements:
                if statement.is_setting:
                    apply_setting(connection, statement, self.codec)
            warnings = self._detach_subscriptions(connection)
            try:
                with connection.transaction():
                    for statement in self._drops:
                        self._drop(connection, statement)
            except psycopg.Error as error:
                if connection.closed:
                    raise
                if (too_many := too_many_locks(error)) is not None:
                    raise too_many from None
                warnings += self._drop_what_is_not_refused(connection)
            self._delete_rows_of_extensions(connection)
        return warnings

    def _run_one_by_one(self, connection: _Connection) -> list[str]:
        warnings = self._detach_subscriptions(connection)
        for statement in self._drops:
            try:
                self._drop(connection, statement)
            except psycopg.Error as refusal:
                others = self._dependents(connection)
                raise _refused([(statement, refusal)], others, "what comes before it was dropped") from None
        self._delete_rows_of_extensions(connection)
        return warnings

    @property
    def _drops(self) -> list[Statement]:
        return [statement for statement in self.commands.statements if not statement.is_setting]

    def _drop(self, connection: _Connection, statement: Statement) -> None:
        """Drop an object, unless it is the key of a partition, which goes with the partition.

        pg_restore drops such a key before the partitioned table's key, and the server refuses that.
        """
        command = statement.encoded(self.codec)
        if not any(word.is_bare("CONSTRAINT") for word in statement.said):
            connection.execute(command)
            return
        try:
            with connection.transaction():
                connection.execute(command)
        except psycopg.Error as error:
            if error.sqlstate != _INHERITED_CONSTRAINT:
                raise

    def _drop_what_is_not_refused(self, connection: _Connection) -> list[str]:
        """Drop each object by itself; raise for all refusals together, but for those that are tolerated."""
        warnings: list[str] = []
        # Now, as drops with CASCADE take constraints away.
        others = self._dependents(connection)
        refused: list[tuple[Statement, psycopg.Error]] = []
        for statement in self._drops:
            try:
                with connection.transaction():
                    self._drop(connection, statement)
            except psycopg.Error as error:
                if connection.closed:
                    raise
                if error.sqlstate == _UNDEFINED_COLUMN:
                    continue  # the default of a column that does not exist: DROP DEFAULT has no IF EXISTS
                if error.sqlstate in self.tolerated:
                    reason = redacted(error.diag.message_primary or "")
                    warnings.append(f"not dropped: {statement.on_one_line}: {reason}")
                    continue
                refused.append((statement, error))
                self._drop_with_dependants(connection, statement)
        if refused:
            raise _refused(refused, others, "nothing was dropped")
        return warnings

    def _drop_with_dependants(self, connection: _Connection, statement: Statement) -> None:
        """Drop with CASCADE, so that later drops are not refused for the same reason; all of it is rolled back."""
        try:
            with connection.transaction():
                connection.execute(statement.encoded(self.codec) + b" CASCADE")
        except psycopg.Error:
            if connection.closed:
                raise

    def _detach_subscriptions(self, connection: _Connection) -> list[str]:
        """Detach subscriptions: dropping an attached one drops its slot too, and cannot be in a transaction."""
        return [
            f"the target's subscription {each.name} is dropped, and its slot {each.slot} stays on its publisher: "
            "drop it there if nothing uses it"
            for each in detach(connection, {entry.name for entry in self.entries if entry.kind == "SUBSCRIPTION"})
        ]

    def _delete_rows_of_extensions(self, connection: _Connection) -> None:
        """Delete rows of extensions' tables that are restored: extensions stay, so rows would be there twice."""
        # In reverse order, because of foreign keys.
        names = self._names(["TABLE DATA"])
        for (command,) in connection.execute(_DELETE_ROWS_OF_EXTENSIONS, names).fetchall():
            connection.execute(command)

    def _dependents(self, connection: _Connection) -> list[str]:
        """Return the relations that would have to be dropped as well; none if the server cannot tell."""
        with contextlib.suppress(psycopg.Error), connection.transaction():
            names = [bytes(name) for (name,) in connection.execute(_DEPENDENTS, self._names(RELATIONS))]
            return [name.decode() for name in names if name.isascii()]
        return []

    def _names(self, kinds: Collection[str]) -> list[list[str]]:
        """Return the schemas and the names of entries; those of other characters are left out."""
        names = [
            (entry.schema, entry.name)
            for entry in self.entries
            if entry.kind in kinds and entry.schema.isascii() and entry.name.isascii()
        ]
        return [[schema for schema, _ in names], [name for _, name in names]]


def check_encoding(encoding: str) -> None:
    """Refuse an archive whose commands psycopg cannot send.

    :param encoding: the archive's encoding, as PostgreSQL names it.
    :raises InputError: psycopg does not know the encoding.
    """
    if not psycopg_knows(encoding):
        raise InputError(
            f"if_exists='clean' does not work with an archive in the encoding {encoding}, which psycopg does not "
            "know: give if_exists='replace', or an empty database"
        )


def apply_setting(connection: _Connection, statement: Statement, codec: str) -> None:
    """Run a SET of pg_restore's, unless it sets `transaction_timeout`, which servers before 17 lack."""
    is_unknown = connection.info.server_version < _FIRST_WITH_TRANSACTION_TIMEOUT
    if not (is_unknown and statement.begins("SET", "TRANSACTION_TIMEOUT")):
        connection.execute(statement.encoded(codec))


def too_many_locks(error: psycopg.Error) -> TooManyLocks | None:
    """Return an error with advice if a transaction took more locks than the server has; None for other errors."""
    if "max_locks_per_transaction" not in (error.diag.message_hint or ""):
        return None
    return TooManyLocks(
        f"PostgreSQL failed ({error.sqlstate}): {error.diag.message_primary}: {LOCKS_ADVICE}; nothing was changed"
    )


def _refused(
    refused: Sequence[tuple[Statement, psycopg.Error]], dependents: Sequence[str], outcome: str
) -> PgS3Error:
    """Return the error that names each refused drop, and why."""
    reasons, others = [], [*dependents]
    for statement, error in refused:
        if (too_many := too_many_locks(error)) is not None:
            return too_many
        what = redacted(error.diag.message_primary or str(error).strip())
        if error.sqlstate != _DEPENDENT_OBJECTS:
            reasons.append(f"{statement.on_one_line}: PostgreSQL failed ({error.sqlstate}): {what}")
            continue
        detail = error.diag.message_detail or ""
        reasons.append(f"{what}: {', '.join(detail.splitlines())}")
        others += _DEPENDENT_TABLE.findall(detail)
    if any(error.sqlstate != _DEPENDENT_OBJECTS for _, error in refused):
        return ServerError(f"if_exists='clean': {'; '.join(reasons)}; {outcome}")
    return DataConflict(
        f"if_exists='clean': objects that are not restored depend on some that would be dropped; {outcome}. "
        f"Select {', '.join(dict.fromkeys(others)) or 'these'} as well, if the backup has them, or drop these "
        f"objects first, or restore into another database: {'; '.join(reasons)}"
    )
