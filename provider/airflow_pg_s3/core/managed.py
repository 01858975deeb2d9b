"""The restore by a role that is no superuser, as on RDS or Azure: what it may not do is left out.

Nobody but the server knows what a role may do there: these services give their administrators some of a
superuser's rights, each others. So the server is asked, by running the archive's definitions one by one, in the
order of pg_restore. What it refuses for lack of rights, and does not hold data, is left out and said. pg_restore
loads the rest: data, indexes, constraints, triggers. Owners and privileges come last, as a role must not give away
what it still has to fill.

Docs: docs/managed-services.md, whose tables are those below.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.definitions import Definition, Statement, definitions_of
from airflow_pg_s3.core.errors import Cancelled, InputError, PgS3Error
from airflow_pg_s3.core.handover import Handover
from airflow_pg_s3.core.libpq import ConnectionParameters
from airflow_pg_s3.core.needs import GRANTEE, OWNER, Needs
from airflow_pg_s3.core.permission import RIGHTS, refusal
from airflow_pg_s3.core.progress import Log
from airflow_pg_s3.core.selection import PRIVILEGES, TocEntry, list_entries

_Connection = psycopg.Connection[tuple[Any, ...]]
# Kinds of entries that may be left out, and the errors that mean that they must be. Every other kind, and every
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
    # Not offered, or only with other settings of the server.
    "EXTENSION": RIGHTS | {"0A000", "58P01", "55000", "F0000"},
    # "aggregate transition data type cannot be internal", except for superusers.
    "AGGREGATE": RIGHTS | {"42P13"},
    # "server ... does not exist": it was left out, and pg_dump does not say that the mapping needs it.
    "USER MAPPING": RIGHTS | {"42704"},
    # "security label provider ... is not loaded"
    "SECURITY LABEL": RIGHTS | {"22023"},
}  # fmt: skip
# What is left out along with what it needs. INDEX: but for unique ones.
_LEFT_OUT_WITH = {
    *TOLERATED, "DOMAIN", "INDEX", "STATISTICS", "STATISTICS DATA", "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY", "TRIGGER", "VIEW",
}  # fmt: skip
# Not worth a word of their own, where the object itself is left out.
_ABOUT_ANOTHER = ("ACL", "COMMENT", "SECURITY LABEL", "STATISTICS DATA")
_SHARING = (
    "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "SUBSCRIPTION", "SUBSCRIPTION TABLE",
)  # fmt: skip
_LAST = (*_SHARING, *PRIVILEGES, "COMMENT", "SECURITY LABEL", "EVENT TRIGGER")
# Left to pg_restore, or nothing that it runs.
_NOT_DEFINED_HERE = ("BLOB", "BLOB METADATA", "BLOBS", "DATABASE", "DATABASE PROPERTIES")
_DATA = ("TABLE DATA", "BLOBS", "STATISTICS DATA")
# Roles of the services themselves, which no other server has, and which nobody can create.
_OF_A_SERVICE = re.compile(r"rds\w*|cloudsql\w*|azure\w*|alloydb\w*")
_INHERITED_CONSTRAINT = "42P16"


class ManagedService:
    """Restores, by a role of few rights, all of an archive but its data, indexes, constraints and triggers.

    :param archive: a file, or a folder of which only toc.dat must be there. The folder around it is written to.
    :param codec: Python codec of the archive's encoding.
    :param arguments: of pg_restore, those that select entries and leave out owners or privileges among them.
    :param clean: first drop what the archive holds.
    """

    def __init__(
        self,
        archive: Path,
        *,
        tools: ClientTools,
        codec: str,
        arguments: Sequence[str],
        clean: bool,
        cancel: threading.Event,
        log: Log,
    ) -> None:
        self.warnings: list[str] = []
        self._archive = archive
        self._tools = tools
        self._codec = codec
        self._arguments = list(arguments)
        self._clean = clean
        self._cancel = cancel
        self._log = log
        # What an entry needs is only told of all entries at once.
        chosen = {entry.dump_id for entry in self._list(*arguments)}
        self._entries = {e.dump_id: e for e in self._list("--verbose", *arguments) if e.dump_id in chosen}
        self._skipped: dict[int, str] = {}
        self._absent_roles: set[str] = set()
        self._definitions: list[Definition] = []
        self._labels: dict[int, str] = {}

    def excuse(self, needs: Needs, connection: _Connection) -> None:
        """Take out of `needs` what the restore can do without; it is left out then.

        :param connection: to any database of the target's server.
        :raises InputError: a table needs an extension that the server does not offer; nothing was touched.
        """
        # Whether owners can be changed will be seen.
        needs.acted_as.clear()
        for role in needs.roles.keys() - _column(connection, "select rolname from pg_roles"):
            if _OF_A_SERVICE.fullmatch(role) and needs.roles[role] <= {OWNER, GRANTEE}:
                self._absent_roles.add(role)
                del needs.roles[role]
        tablespaces = needs.tablespaces - _column(connection, "select spcname from pg_tablespace")
        if tablespaces:
            self._arguments.append("--no-tablespaces")
            self._warn(f"no tablespaces are used, as there is no {', '.join(sorted(tablespaces))}")
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
    def load_arguments(self) -> list[str]:
        """Tell pg_restore what is left for it, once all is defined."""
        defined = self._before_data()
        rest = [
            number
            for number, entry in self._entries.items()
            if number not in self._skipped and entry.kind not in _LAST and number not in defined
        ]
        list_file = self._list_file("rest", rest)
        return [*self._arguments, "--no-owner", "--no-privileges", f"--use-list={list_file}"]

    def define(self, target: ConnectionParameters) -> None:
        """Create all that must be there before the data.

        :raises PgS3Error: a table cannot be created for want of something that the role may not create.
        :raises psycopg.Error: the server refuses what must not be left out.
        """
        defined = self._before_data()
        settings: list[Statement] = []
        with target.connect() as connection:
            self._set_up(connection, self._clean)
            for definition in self._definitions[1:]:
                if self._cancel.is_set():
                    raise Cancelled(f"the restore was stopped; {target.database!r} is incomplete")
                entry = self._entries[definition.dump_id]
                if definition.dump_id in defined and entry.kind not in _LAST:
                    self._skip_dependants([entry], PgS3Error)
                    if definition.dump_id not in self._skipped:
                        while settings:
                            connection.execute(settings.pop(0).encoded(self._codec))
                        self._define(connection, definition, entry)
                # They hold for the entries behind this one.
                settings += [statement for statement in definition.statements if statement.is_setting]
        self._skip_dependants(self._entries.values(), PgS3Error)

    def complete(self, target: ConnectionParameters) -> None:
        """Do what must come after the data: comments, owners, privileges, publications, event triggers.

        :raises psycopg.Error: the server refuses something for another reason than that the role may not do it.
        """
        with target.connect() as connection:
            self._set_up(connection, clean=False)
            last = [(d, self._entries[d.dump_id]) for d in self._definitions[1:] if d.dump_id not in self._skipped]
            triggers = {entry.dump_id for _, entry in last if entry.kind == "EVENT TRIGGER"}
            about = [(d, e) for d, e in last if e.kind in ("COMMENT", "SECURITY LABEL")]
            for definition, entry in [
                *((d, e) for d, e in last if e.kind in _SHARING),
                *((d, e) for d, e in about if triggers.isdisjoint(e.needs)),
            ]:
                self._try_to_define(connection, definition, entry)
            handover = Handover(
                connection, codec=self._codec, absent_roles=self._absent_roles, warn=self._warn, log=self._log
            )
            handover.give_away([(d, e) for d, e in last if d.dump_id not in self._skipped])
            # Else they would fire at all this.
            for definition, entry in [
                *((d, e) for d, e in last if e.kind == "EVENT TRIGGER"),
                *((d, e) for d, e in about if not triggers.isdisjoint(e.needs)),
            ]:
                self._try_to_define(connection, definition, entry)
                if definition.dump_id not in self._skipped:
                    handover.change_owner(definition, entry)
            handover.tell_owners()

    # -- the archive ---------------------------------------------------------------------------------

    def _list(self, *arguments: str) -> list[TocEntry]:
        return list_entries(self._archive, tools=self._tools, arguments=arguments, codec=self._codec)

    def _list_file(self, name: str, dump_ids: Iterable[int]) -> Path:
        file = self._archive.parent / f"managed.{name}.list"
        file.write_text("".join(f"{number};\n" for number in dump_ids))
        return file

    def _read_definitions(self) -> None:
        list_file = self._list_file("all", (n for n, entry in self._entries.items() if entry.kind not in _DATA))
        clean = ["--clean", "--if-exists"] if self._clean else []
        self._definitions = definitions_of(
            self._archive,
            list_file,
            tools=self._tools,
            codec=self._codec,
            arguments=[*self._arguments, *clean],
        )
        self._labels = {n: f"{entry.kind} {entry.rest}" for n, entry in self._entries.items()} | {
            definition.dump_id: definition.label for definition in self._definitions
        }

    def _before_data(self) -> set[int]:
        """What is created before the data; large objects are left to pg_restore."""
        numbers = {entry.dump_id for entry in self._list("--section=pre-data")}
        return {n for n in numbers & self._entries.keys() if self._entries[n].kind not in _NOT_DEFINED_HERE}

    # -- leaving out ---------------------------------------------------------------------------------

    def _skip(self, entry: TocEntry, reason: str) -> None:
        self._skipped[entry.dump_id] = reason
        if entry.kind not in _ABOUT_ANOTHER or self._skipped.keys().isdisjoint(entry.needs):
            self._warn(f"left out: {self._labels[entry.dump_id]}: {reason}")

    def _skip_dependants(self, entries: Iterable[TocEntry], error: type[PgS3Error]) -> None:
        """Leave out what needs something that is left out; or raise, where that must not be."""
        for entry in entries:
            needed = next((number for number in entry.needs if number in self._skipped), None)
            if needed is None or entry.dump_id in self._skipped:
                continue
            if entry.kind not in _LEFT_OUT_WITH or self._is_unique_index(entry):
                raise error(
                    f"{self._labels[entry.dump_id]} cannot be restored, as it needs {self._labels[needed]}, "
                    f"which was left out: {self._skipped[needed]}. Let somebody restore it who may create that, "
                    "or leave out what needs it (exclude_tables)"
                )
            self._skip(entry, f"it needs {self._labels[needed]}")

    def _is_unique_index(self, entry: TocEntry) -> bool:
        return entry.kind == "INDEX" and any(
            definition.dump_id == entry.dump_id
            and any(s.begins("CREATE", "UNIQUE") for s in definition.statements)
            for definition in self._definitions
        )

    def _warn(self, warning: str) -> None:
        self.warnings.append(warning)
        self._log.warning("%s", warning)

    # -- commands ------------------------------------------------------------------------------------

    def _set_up(self, connection: _Connection, clean: bool) -> None:
        """Apply the settings of a restore, and drop what is to be dropped."""
        for statement in self._definitions[0].statements if self._definitions else ():
            if statement.begins("SET", "transaction_timeout") and connection.info.server_version < 170000:
                continue
            if statement.is_setting:
                connection.execute(statement.encoded(self._codec))
            elif clean:
                self._drop(connection, statement)

    def _drop(self, connection: _Connection, statement: Statement) -> None:
        # A partition's key goes with the partition.
        is_key = any(word.is_bare("CONSTRAINT") for word in statement.said)
        try:
            reason = refusal(connection, statement.encoded(self._codec))
        except psycopg.Error as error:
            if not (is_key and error.sqlstate == _INHERITED_CONSTRAINT):
                raise
        else:
            if reason is not None:
                self._warn(f"not dropped: {statement.on_one_line}: {reason}")

    def _define(self, connection: _Connection, definition: Definition, entry: TocEntry) -> None:
        commands = [
            statement.encoded(self._codec)
            for statement in definition.statements
            if not statement.is_setting and statement.new_owner is None
        ]
        reason = refusal(connection, *commands, tolerated=TOLERATED.get(entry.kind, ()))
        if reason is not None:
            self._skip(entry, reason)

    def _try_to_define(self, connection: _Connection, definition: Definition, entry: TocEntry) -> None:
        self._skip_dependants([entry], PgS3Error)
        if definition.dump_id not in self._skipped:
            self._define(connection, definition, entry)


def _column(connection: _Connection, query: str) -> set[str]:
    return {str(value) for (value,) in connection.execute(query.encode()).fetchall()}
