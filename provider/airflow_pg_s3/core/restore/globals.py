"""Roles, memberships, settings of roles, and tablespaces: stored with a backup, and applied before a restore.

They are one member of the backup, `GLOBALS`, as pg_dumpall writes it, without passwords. Only what is new on the
target is applied, statement by statement: what exists there is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.redaction import HIDDEN, redacted
from airflow_pg_s3.core.postgres.sql_text import Token, quote_name, redacted_sql, split, starts_with, tokenize

# A new role has none of them, and to take away what it has not takes the same rights as to give it.
_PRIVILEGED = ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")
_UNPRIVILEGED = tuple(f"NO{attribute}" for attribute in _PRIVILEGED)
_Connection = psycopg.Connection[tuple[Any, ...]]


def read_script(file: Path, codec: str) -> str:
    """Read what pg_dumpall wrote.

    :param codec: Python codec of the source database's encoding.
    """
    data = file.read_bytes()
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return data.decode("latin-1")  # SQL_ASCII holds whatever was put in


@contextmanager
def applied(connection: _Connection, script: str) -> Iterator[list[str]]:
    """Create what the target has not, for good if the block ends well, and else not at all.

    :param connection: in autocommit mode, to any database of the target's server.
    :param script: what pg_dumpall wrote.
    :returns: a sentence for each thing that could not be done, or not quite.
    :raises InputError: roles are missing, and the user may not create any.
    """
    applying = _Applying(connection, script)
    try:
        # These cannot be created in a transaction.
        applying.create_tablespaces()
        with connection.transaction():
            applying.apply()
            yield applying.warnings
    except BaseException:
        applying.drop_tablespaces()
        raise


class _Applying:
    def __init__(self, connection: _Connection, script: str) -> None:
        self.warnings: list[str] = []
        self._connection = connection
        self._backslashes = "\nSET standard_conforming_strings = off;\n" in script
        self._statements = list(split(script, backslashes=self._backslashes))
        self._roles: set[str] = set()
        self._tablespaces: set[str] = set()
        row = connection.execute(
            "select current_user::text, rolsuper, rolsuper or rolcreaterole from pg_roles"
            " where rolname = current_user"
        ).fetchone()
        assert row is not None
        self._user, self._is_superuser, self._may_create_roles = row

    def create_tablespaces(self) -> None:
        for said in map(self._words, self._statements):
            if not starts_with(said, "CREATE", "TABLESPACE") or self._exists(
                "pg_tablespace", "spcname", said[2].text
            ):
                continue
            name, location = said[2].text, said[-1]
            command = f"create tablespace {quote_name(name)} location {location.sql}"
            if reason := self._failure(command):
                self.warnings.append(f"the tablespace {name} was not created: {reason}")
            else:
                self._tablespaces.add(name)

    def drop_tablespaces(self) -> None:
        for name in self._tablespaces:
            with suppress(psycopg.Error):
                self._connection.execute(f"drop tablespace {quote_name(name)}".encode())

    def apply(self) -> None:
        if not self._is_superuser and self._connection.info.server_version >= 160000:
            # Else the user could not give the roles what they own.
            self._connection.execute("set local createrole_self_grant = 'set, inherit'")
        if self._backslashes:
            self._connection.execute("set local standard_conforming_strings = off")
        for statement in self._statements:
            self._apply(statement, self._words(statement))

    def _apply(self, statement: str, said: Sequence[Token]) -> None:
        if starts_with(said, "SET"):
            return  # of pg_dumpall's own session
        if starts_with(said, "CREATE", "ROLE"):
            self._create_role(said[2].text)
        elif starts_with(said, "ALTER", "ROLE") and said[3].is_bare("WITH"):
            if said[2].text in self._roles:
                self._set_attributes(said[2].text, said[4:])
        elif starts_with(said, "GRANT") and not any(word.is_bare("ON") for word in said):
            self._grant_membership(said)
        elif starts_with(said, "CREATE", "TABLESPACE"):
            if said[2].text in self._tablespaces:
                self._run(f"alter tablespace {said[2].sql} owner to {said[4].sql}")
        elif self._is_about_something_new(said):
            self._run(statement)

    def _create_role(self, name: str) -> None:
        if self._exists("pg_roles", "rolname", name):
            return
        if not self._may_create_roles:
            raise InputError(
                f"restore_globals=True, but {self._user} may not create roles, such as {name}: give it "
                "CREATEROLE, or leave restore_globals out and have the roles created"
            )
        if self._run(f"create role {quote_name(name)}"):
            self._roles.add(name)
            if not self._is_superuser and self._connection.info.server_version < 160000:
                self._run(f"grant {quote_name(name)} to {quote_name(self._user)}")

    def _set_attributes(self, name: str, attributes: Sequence[Token]) -> None:
        role = quote_name(name)
        for attribute in (word for word in attributes if word.is_bare(*_PRIVILEGED)):
            if reason := self._failure(f"alter role {role} with {attribute.text}"):
                self.warnings.append(f"the role {name} was created without {attribute.text}: {reason}")
        rest = [word.sql for word in attributes if not word.is_bare(*_PRIVILEGED, *_UNPRIVILEGED)]
        if rest:
            self._run(f"alter role {role} with {' '.join(rest)}")

    def _grant_membership(self, said: Sequence[Token]) -> None:
        role, member = said[1], said[3]
        if self._roles.isdisjoint([role.text, member.text]):
            return
        if member.text == self._user and role.text in self._roles and not self._is_superuser:
            return  # it is a member already, since it has created the role
        by = next((i for i, word in enumerate(said) if word.is_bare("GRANTED")), len(said))
        command = " ".join(word.sql for word in said[:by])
        # Who granted it matters less than that it is granted.
        if by == len(said) or self._failure(" ".join(word.sql for word in said)):
            self._run(command)

    def _is_about_something_new(self, said: Sequence[Token]) -> bool:
        """Whether a statement changes a role or tablespace that was created here, or what such a role may do."""
        if starts_with(said, "GRANT") or starts_with(said, "REVOKE"):
            on = next(i for i, word in enumerate(said) if word.is_bare("ON"))
            to = next(i for i, word in enumerate(said) if word.is_bare("TO", "FROM"))
            if said[on + 1].is_bare("TABLESPACE"):
                return said[on + 2].text in self._tablespaces
            return said[to + 1].text in self._roles
        for kind, name in pairwise(said):
            if kind.is_bare("ROLE", "TABLESPACE"):
                return name.text in (self._roles if kind.is_bare("ROLE") else self._tablespaces)
        begin = " ".join(HIDDEN if word.is_string else word.text for word in said[:4])
        self.warnings.append(f"not understood in the globals, and left out: {begin}")
        return False

    def _run(self, command: str) -> bool:
        """Execute a command; one that fails becomes a warning."""
        if reason := self._failure(command):
            self.warnings.append(f"not done: {redacted_sql(command, self._words(command))}: {reason}")
        return reason is None

    def _failure(self, command: str) -> str | None:
        """Execute a command; say why it failed, if it has. A transaction around it goes on."""
        try:
            if self._connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                self._connection.execute(command.encode())
            else:
                with self._connection.transaction():
                    self._connection.execute(command.encode())
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            return redacted(str(error)).splitlines()[0]
        return None

    def _words(self, statement: str) -> list[Token]:
        return tokenize(statement, backslashes=self._backslashes)

    def _exists(self, table: str, column: str, name: str) -> bool:
        query = f"select from {table} where {column} = %s"
        return self._connection.execute(query.encode(), [name]).fetchone() is not None
