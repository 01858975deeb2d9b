"""Owners and privileges, set after the data by a role that is not a superuser."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.postgres.archive.definitions import Definition, Statement
from airflow_pg_s3.core.postgres.archive.toc import Entry
from airflow_pg_s3.core.postgres.encodings import as_text
from airflow_pg_s3.core.postgres.errors import RIGHTS, try_execute
from airflow_pg_s3.core.reporting import some_of
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.load.plan import PRIVILEGES

_Connection = psycopg.Connection[tuple[Any, ...]]
_LINKED_SEQUENCE = "0A000"  # its owner changes with that of its table
_NO_SUCH_ROLE = "22023"
_SHOWN = 5


class OwnershipRestorer:
    """Gives objects to their owners, then grants the archive's privileges; warns of what cannot be done.

    :param connection: a connection to the restored database, by the role that restored it.
    :param codec: Python codec of the archive's encoding.
    :param absent_roles: roles that the archive names and the server may lack.
    """

    def __init__(
        self, connection: _Connection, context: RestoreContext, *, codec: str, absent_roles: Collection[str]
    ) -> None:
        self._connection = connection
        self._codec = codec
        self._absent_roles = set(absent_roles)
        self._warn = context.warn
        self._log = context.log
        self._not_given: dict[str, list[str]] = {}
        become = "set" if connection.info.server_version >= 160000 else "member"
        (role,) = connection.execute("select current_setting('role')").fetchone() or ("none",)
        self._reset_role = sql.SQL("select pg_catalog.set_config('role', {}, true)").format(as_text(role))
        # Roles whose rights the user does not inherit are left out, as their objects could not be completed.
        rows = connection.execute(
            "select rolname from pg_roles where pg_has_role(oid, %s) and pg_has_role(oid, 'usage')", (become,)
        )
        self._may_become = {as_text(name) for (name,) in rows}

    def apply(self, defined: Sequence[tuple[Definition, Entry]]) -> None:
        """Set owners and privileges of all definitions except event triggers, which come later."""
        schemas = [(d, e) for d, e in defined if e.kind == "SCHEMA"]
        others = [(d, e) for d, e in defined if e.kind not in ("SCHEMA", "EVENT TRIGGER")]
        privileges = [(d, e) for d, e in defined if e.kind in PRIVILEGES]
        of_schemas = [(d, e) for d, e in privileges if not e.schema and e.name.startswith("SCHEMA ")]
        # Schemas come first: an owner of an object needs CREATE on its schema.
        for definition, entry in schemas:
            self.change_owner(definition, entry)
        for definition, _ in of_schemas:
            self._grant(definition)
        for definition, entry in others:
            self.change_owner(definition, entry)
        for definition, entry in privileges:
            if (definition, entry) not in of_schemas:
                self._grant(definition)

    def change_owner(self, definition: Definition, entry: Entry) -> None:
        """Give an entry's object to its owner."""
        for statement in definition.statements:
            if (owner := statement.new_owner) is None:
                continue
            if owner not in self._may_become:
                self._not_given.setdefault(owner, []).append(definition.label)
                continue
            try:
                reason = try_execute(self._connection, statement.encoded(self._codec))
            except psycopg.Error as error:
                if not (entry.kind == "SEQUENCE" and error.sqlstate == _LINKED_SEQUENCE):
                    raise
            else:
                if reason is not None:
                    self._warn(f"not owned by {owner}: {definition.label}: {reason}")

    def report_unassigned(self) -> None:
        """Warn of objects that did not get their owner: one line per owner, as the objects can be many."""
        user = self._connection.info.user
        for role, labels in self._not_given.items():
            for label in labels:
                self._log.info("%s belongs to %s instead of %s", label, user, role)
            self._warn(
                f"owned by {user} instead of {role}: {some_of(labels, _SHOWN)} ({user} is no member of "
                f"{role}, or does not inherit its rights)"
            )

    def _grant(self, definition: Definition) -> None:
        """Run an entry's GRANT and REVOKE commands, some of them as another grantor."""
        grantor: Statement | None = None
        for statement in definition.statements:
            if statement.begins("SET", "SESSION", "AUTHORIZATION"):
                grantor = None if statement.said[3].is_bare("DEFAULT") else statement
            elif statement.said[0].is_bare("RESET"):
                grantor = None
            elif not statement.is_setting and (reason := self._failure(statement, grantor)) is not None:
                self._warn(f"not done: {statement.on_one_line}: {reason}")

    def _failure(self, statement: Statement, grantor: Statement | None) -> str | None:
        if absent := self._absent_roles.intersection(word.text for word in statement.said):
            return f"there is no role {min(absent)}"
        commands: list[Any] = [statement.encoded(self._codec)]
        if grantor is not None:
            # Only superusers may SET SESSION AUTHORIZATION; a member may SET ROLE.
            role = grantor.said[3].sql.encode(self._codec, errors="surrogateescape")
            # The role is reset, as it would stay for the rest of an open transaction.
            commands = [b"set local role " + role, *commands, self._reset_role]
        return try_execute(self._connection, *commands, tolerated={*RIGHTS, _NO_SUCH_ROLE}, heed_warnings=True)
