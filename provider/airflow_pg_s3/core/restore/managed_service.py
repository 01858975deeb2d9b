"""The restore by a role that is not a superuser, as on RDS or Azure: what the role may not create is left out.

Only the server knows what a role may do there: each service gives its administrators another part of a
superuser's rights. So the archive's definitions are run one by one, in pg_restore's order. An object that the
server refuses for lack of rights, and that holds no data, is left out with a warning. pg_restore loads the rest:
data, indexes, constraints, triggers. Owners and privileges come last, as a role that has given a table away can
no longer fill it.

The tables in docs/managed-services.md are those below.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import Cancelled, InputError, PgS3Error
from airflow_pg_s3.core.postgres.archive.definitions import Definition, Statement
from airflow_pg_s3.core.postgres.archive.requirements import GRANTEE, OWNER, Requirements
from airflow_pg_s3.core.postgres.archive.toc import PRE_DATA, Entry
from airflow_pg_s3.core.postgres.connection import settings_for_values
from airflow_pg_s3.core.postgres.errors import RIGHTS, try_execute
from airflow_pg_s3.core.restore.clean import CLEAN, Cleaning, apply_setting
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.definer import run_definition
from airflow_pg_s3.core.restore.existing_objects import change_owner_of_public
from airflow_pg_s3.core.restore.load.plan import PRIVILEGES, rows_of_extensions
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive
from airflow_pg_s3.core.restore.ownership import OwnershipRestorer

_Connection = psycopg.Connection[tuple[Any, ...]]
# Kinds of entries that may be left out, each with the SQLSTATEs for which it is. Every other kind, and every
# other error, ends the restore. https://www.postgresql.org/docs/current/errcodes-appendix.html
TOLERATED: Mapping[str, Collection[str]] = {
    **dict.fromkeys(
        (
            "ACCESS METHOD", "ACL", "CAST", "COLLATION", "COMMENT", "CONVERSION", "DEFAULT ACL", "EVENT TRIGGER",
            "FOREIGN DATA WRAPPER", "FOREIGN TABLE", "FUNCTION", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY",
            "PROCEDURAL LANGUAGE", "PROCEDURE", "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA",
            "SERVER", "SHELL TYPE", "SUBSCRIPTION", "SUBSCRIPTION TABLE", "TEXT SEARCH PARSER",
            "TEXT SEARCH TEMPLATE", "TRANSFORM", "TYPE",
        ),
        RIGHTS,
    ),
    # Not offered, or it needs other settings of the server, or its script wants another database (P0001).
    "EXTENSION": RIGHTS | {"0A000", "58P01", "55000", "F0000", "P0001"},
    # "aggregate transition data type cannot be internal", except for superusers.
    "AGGREGATE": RIGHTS | {"42P13"},
    # "server ... does not exist": the server was left out, and pg_dump records no dependency on it.
    "USER MAPPING": RIGHTS | {"42704"},
    # "security label provider ... is not loaded"
    "SECURITY LABEL": RIGHTS | {"22023"},
}  # fmt: skip
# Kinds that are left out if what they need is left out. INDEX: except unique ones.
_LEFT_OUT_WITH = {
    *TOLERATED, "DOMAIN", "INDEX", "STATISTICS", "STATISTICS DATA", "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY", "TRIGGER", "VIEW",
}  # fmt: skip
# These get no warning of their own if their object is left out.
_ABOUT_ANOTHER = ("ACL", "COMMENT", "SECURITY LABEL", "STATISTICS DATA")
_SHARING = (
    "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "SUBSCRIPTION", "SUBSCRIPTION TABLE",
)  # fmt: skip
_LAST = (*_SHARING, *PRIVILEGES, "COMMENT", "SECURITY LABEL", "EVENT TRIGGER")
_RELATION = "select to_regclass(format('%%I.%%I', %s::text, %s::text))"
# Left to pg_restore, or not part of a restore.
_NOT_DEFINED_HERE = ("BLOB", "BLOB METADATA", "BLOBS", "DATABASE", "DATABASE PROPERTIES")
# Roles of the services themselves: no other server has them, and nobody can create them.
_OF_A_SERVICE = re.compile(r"rds\w*|cloudsql\w*|azure\w*|alloydb\w*")


class UnprivilegedRestore:
    """The `Definer` of a role with few rights: creates all but data, indexes, constraints and triggers.

    :param public: the entry of the schema public, if the schema is to get the owner that the archive names.
    """

    def __init__(self, archive: OpenedArchive, context: RestoreContext, *, public: Entry | None) -> None:
        self._archive = archive
        self._context = context
        self._public = public
        self._codec = archive.toc.codec
        self._options = list(archive.options)
        self._clean = context.request.if_exists == "clean"
        self._settings = settings_for_values(archive.lc_monetary)
        self._entries = {entry.dump_id: entry for entry in archive.entries}
        self._skipped: dict[int, str] = {}
        self._absent_roles: set[str] = set()
        self._definitions: list[Definition] = []
        self._labels: dict[int, str] = {}

    def waive_requirements(self, needs: Requirements, connection: _Connection) -> None:
        """Remove from `needs` what the restore can do without; it is then left out.

        :param connection: a connection to any database of the target's server.
        :raises InputError: a table needs an extension that the server does not offer; nothing was touched.
        """
        # Changes of owner are tried later; refused ones become warnings.
        needs.roles_to_become.clear()
        for role in needs.roles.keys() - _column(connection, "select rolname from pg_roles"):
            if _OF_A_SERVICE.fullmatch(role) and needs.roles[role] <= {OWNER, GRANTEE}:
                self._absent_roles.add(role)
                del needs.roles[role]
        tablespaces = needs.tablespaces - _column(connection, "select spcname from pg_tablespace")
        if tablespaces:
            self._options.append("--no-tablespaces")
            self._context.warn(f"no tablespaces are used, as there is no {', '.join(sorted(tablespaces))}")
            needs.tablespaces.clear()
        available = _column(connection, "select name from pg_available_extensions")
        self._read_definitions()
        for entry in self._entries.values():
            if (
                entry.kind == "EXTENSION"
                and (name := self._labels[entry.dump_id].partition(" ")[2]) not in available
            ):
                self._skip(entry, "the server does not offer it")
                needs.extensions.discard(name)
        self._skip_dependants(self._entries.values(), InputError)

    @property
    def options(self) -> list[str]:
        """pg_restore's options for `entries_to_load`."""
        return [*self._options, "--no-owner", "--no-privileges"]

    @property
    def entries_to_load(self) -> list[Entry]:
        """The entries that are left for pg_restore, and for sessions that load rows, after `define`."""
        defined = self._before_data()
        return [
            entry
            for number, entry in self._entries.items()
            if number not in self._skipped and entry.kind not in _LAST and number not in defined
        ]

    def define(self, connection: _Connection, early: Collection[int] = ()) -> None:
        """Drop what ``clean`` drops, and create what must exist before the data. On an error nothing is dropped.

        :param early: dump ids out of `entries_to_load` that are to be created here as well.
        :raises DataConflict: something else depends on what would be dropped.
        :raises PgS3Error: a table needs something that the role may not create.
        :raises psycopg.Error: the server refuses something that must not be left out.
        """
        self._set_up(connection)
        with connection.transaction() if self._clean else contextlib.nullcontext():
            if self._clean:
                entries = list(self._entries.values())
                Cleaning(self._definitions[0], entries, self._codec, self._context, tolerated=RIGHTS).run(
                    connection
                )
            self._define_all(connection)
            self._define_rest(connection, early)

    def complete(self, connection: _Connection, late: Collection[int] = ()) -> None:
        """Apply what must come after the data: comments, owners, privileges, publications, event triggers.

        :param late: dump ids out of `entries_to_load` that are to be created here as well, before the others.
        :raises psycopg.Error: the server refuses something for another reason than a lack of rights.
        """
        self._set_up(connection)
        self._define_rest(connection, late)
        last = [(d, self._entries[d.dump_id]) for d in self._definitions[1:] if d.dump_id not in self._skipped]
        triggers = {entry.dump_id for _, entry in last if entry.kind == "EVENT TRIGGER"}
        about = [(d, e) for d, e in last if e.kind in ("COMMENT", "SECURITY LABEL")]
        for definition, entry in [
            *((d, e) for d, e in last if e.kind in _SHARING),
            *((d, e) for d, e in about if triggers.isdisjoint(e.dependencies)),
        ]:
            self._try_to_define(connection, definition, entry)
        ownership = OwnershipRestorer(
            connection, self._context, codec=self._codec, absent_roles=self._absent_roles
        )
        if self._public is not None:
            change_owner_of_public(connection, self._public, self._context.warn)
        ownership.apply([(d, e) for d, e in last if d.dump_id not in self._skipped])
        # Event triggers come last, or they would fire on all of the above.
        for definition, entry in [
            *((d, e) for d, e in last if e.kind == "EVENT TRIGGER"),
            *((d, e) for d, e in about if not triggers.isdisjoint(e.dependencies)),
        ]:
            self._try_to_define(connection, definition, entry)
            if definition.dump_id not in self._skipped:
                ownership.change_owner(definition, entry)
        ownership.report_unassigned()

    # -- the archive ---------------------------------------------------------------------------------

    def _read_definitions(self) -> None:
        self._definitions = self._archive.definitions(
            self._entries.values(), [*self._options, *(CLEAN if self._clean else [])]
        )
        self._labels = {n: f"{entry.kind} {entry.schema} {entry.name}" for n, entry in self._entries.items()} | {
            definition.dump_id: definition.label for definition in self._definitions
        }

    def _before_data(self) -> set[int]:
        """Return the dump ids that are created before the data; large objects are left to pg_restore."""
        return {
            number
            for number, entry in self._entries.items()
            if self._archive.toc.section_of[number] == PRE_DATA and entry.kind not in _NOT_DEFINED_HERE
        }

    # -- leaving out ---------------------------------------------------------------------------------

    def _skip(self, entry: Entry, reason: str) -> None:
        self._skipped[entry.dump_id] = reason
        if entry.kind not in _ABOUT_ANOTHER or self._skipped.keys().isdisjoint(entry.dependencies):
            self._context.warn(f"left out: {self._labels[entry.dump_id]}: {reason}")

    def _skip_dependants(self, entries: Iterable[Entry], error: type[PgS3Error]) -> None:
        """Leave out entries that need one that is left out; raise if one of them must not be."""
        for entry in entries:
            needed = next((number for number in entry.dependencies if number in self._skipped), None)
            if needed is None or entry.dump_id in self._skipped:
                continue
            if entry.kind not in _LEFT_OUT_WITH or self._is_unique_index(entry):
                raise error(
                    f"{self._labels[entry.dump_id]} cannot be restored, as it needs {self._labels[needed]}, "
                    f"which was left out: {self._skipped[needed]}. Let somebody restore it who may create that, "
                    "or leave out what needs it (exclude_tables)"
                )
            self._skip(entry, f"it needs {self._labels[needed]}")

    def _is_unique_index(self, entry: Entry) -> bool:
        return entry.kind == "INDEX" and any(
            definition.dump_id == entry.dump_id
            and any(s.begins("CREATE", "UNIQUE") for s in definition.statements)
            for definition in self._definitions
        )

    # -- commands ------------------------------------------------------------------------------------

    def _set_up(self, connection: _Connection) -> None:
        for name, value in self._settings.items():
            connection.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])
        for statement in self._definitions[0].statements if self._definitions else ():
            if statement.is_setting:
                apply_setting(connection, statement, self._codec)

    def _define_all(self, connection: _Connection) -> None:
        defined = self._before_data()
        settings: list[Statement] = []
        for definition in self._definitions[1:]:
            if self._context.cancel.is_set():
                raise Cancelled(f"the restore into {connection.info.dbname!r} was stopped")
            entry = self._entries[definition.dump_id]
            if definition.dump_id in defined and entry.kind not in _LAST:
                self._skip_dependants([entry], PgS3Error)
                if definition.dump_id not in self._skipped:
                    while settings:
                        connection.execute(settings.pop(0).encoded(self._codec))
                    self._define(connection, definition, entry)
            # Settings hold for the entries after this one.
            settings += [statement for statement in definition.statements if statement.is_setting]
        self._skip_dependants(self._entries.values(), PgS3Error)
        self._refuse_rows_without_tables(connection)

    def _refuse_rows_without_tables(self, connection: _Connection) -> None:
        """Raise if rows of an extension have no table, once all else is created.

        The archive does not say which extension a table belongs to, so this cannot be known earlier.
        """
        extensions = [
            e.dump_id for e in self._entries.values() if e.kind == "EXTENSION" and e.dump_id in self._skipped
        ]
        for entry in rows_of_extensions(list(self._entries.values())) if extensions else ():
            if connection.execute(_RELATION, [entry.schema, entry.name]).fetchone() == (None,):
                lacking = "; ".join(f"{self._labels[number]}: {self._skipped[number]}" for number in extensions)
                raise PgS3Error(
                    f"the rows of {entry.schema}.{entry.name} cannot be restored, as the table is part of an "
                    f"extension, and some were left out: {lacking}. Let somebody restore it who may create them"
                )

    def _define_rest(self, connection: _Connection, numbers: Collection[int]) -> None:
        """Create those of `entries_to_load` that have one of these dump ids."""
        if not numbers:
            return
        left = {entry.dump_id for entry in self.entries_to_load}.intersection(numbers)
        for definition in self._definitions[1:]:
            kept = [statement for statement in definition.statements if statement.new_owner is None]
            run_definition(connection, replace(definition, statements=kept), self._codec, left)

    def _define(self, connection: _Connection, definition: Definition, entry: Entry) -> None:
        commands = [
            statement.encoded(self._codec)
            for statement in definition.statements
            if not statement.is_setting and statement.new_owner is None
        ]
        reason = try_execute(connection, *commands, tolerated=TOLERATED.get(entry.kind, ()))
        if reason is not None:
            self._skip(entry, reason)

    def _try_to_define(self, connection: _Connection, definition: Definition, entry: Entry) -> None:
        self._skip_dependants([entry], PgS3Error)
        if definition.dump_id not in self._skipped:
            self._define(connection, definition, entry)


def _column(connection: _Connection, query: str) -> set[str]:
    return {str(value) for (value,) in connection.execute(query.encode()).fetchall()}
