"""Roles, memberships, settings of roles, and tablespaces: stored with a backup, and applied before a restore.

The backup stores them as one member, `GLOBALS`: pg_dumpall's script, without passwords. Only what is new on the
target is applied, statement by statement; what exists there stays as it is.
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

# A new role has none of these attributes, and revoking one takes the same rights as granting it.
_PRIVILEGED = ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")
_UNPRIVILEGED = tuple(f"NO{attribute}" for attribute in _PRIVILEGED)
_Connection = psycopg.Connection[tuple[Any, ...]]


def read_script(file: Path, codec: str) -> str:
    """Read a script of pg_dumpall's.

    :param codec: Python codec of the source database's encoding.
    """
    data = file.read_bytes()
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return data.decode("latin-1")  # SQL_ASCII databases hold any bytes


@contextmanager
def applied(connection: _Connection, script: str) -> Iterator[list[str]]:
    """Context manager: create missing roles and tablespaces; roll back if the block raises.

    :param connection: a connection in autocommit mode to any database of the target's server.
    :param script: pg_dumpall's script.
    :returns: a sentence for each thing that could not be done, or only in part.
    :raises InputError: roles are missing, and the user may not create any.
    """
    applying = _Applying(connection, script)
    try:
        # CREATE TABLESPACE cannot run in a transaction.
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
        for tokens in map(self._tokens, self._statements):
            if not starts_with(tokens, "CREATE", "TABLESPACE") or self._exists(
                "pg_tablespace", "spcname", tokens[2].text
            ):
                continue
            name, location = tokens[2].text, tokens[-1]
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
            # Without this, the user could not make the new roles owners of anything.
            self._connection.execute("set local createrole_self_grant = 'set, inherit'")
        if self._backslashes:
            self._connection.execute("set local standard_conforming_strings = off")
        for statement in self._statements:
            self._apply(statement, self._tokens(statement))

    def _apply(self, statement: str, tokens: Sequence[Token]) -> None:
        if starts_with(tokens, "SET"):
            return  # a setting of pg_dumpall's session
        if starts_with(tokens, "CREATE", "ROLE"):
            self._create_role(tokens[2].text)
        elif starts_with(tokens, "ALTER", "ROLE") and tokens[3].is_bare("WITH"):
            if tokens[2].text in self._roles:
                self._set_attributes(tokens[2].text, tokens[4:])
        elif starts_with(tokens, "GRANT") and not any(word.is_bare("ON") for word in tokens):
            self._grant_membership(tokens)
        elif starts_with(tokens, "CREATE", "TABLESPACE"):
            if tokens[2].text in self._tablespaces:
                self._run(f"alter tablespace {tokens[2].sql} owner to {tokens[4].sql}")
        elif self._is_about_something_new(tokens):
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

    def _grant_membership(self, tokens: Sequence[Token]) -> None:
        role, member = tokens[1], tokens[3]
        if self._roles.isdisjoint([role.text, member.text]):
            return
        if member.text == self._user and role.text in self._roles and not self._is_superuser:
            return  # it is a member already, since it has created the role
        by = next((i for i, word in enumerate(tokens) if word.is_bare("GRANTED")), len(tokens))
        command = " ".join(word.sql for word in tokens[:by])
        # A membership granted by another role is better than none.
        if by == len(tokens) or self._failure(" ".join(word.sql for word in tokens)):
            self._run(command)

    def _is_about_something_new(self, tokens: Sequence[Token]) -> bool:
        """True if a statement is about a role or tablespace created here, or the rights of such a role."""
        if starts_with(tokens, "GRANT") or starts_with(tokens, "REVOKE"):
            on = next(i for i, word in enumerate(tokens) if word.is_bare("ON"))
            to = next(i for i, word in enumerate(tokens) if word.is_bare("TO", "FROM"))
            if tokens[on + 1].is_bare("TABLESPACE"):
                return tokens[on + 2].text in self._tablespaces
            return tokens[to + 1].text in self._roles
        for kind, name in pairwise(tokens):
            if kind.is_bare("ROLE", "TABLESPACE"):
                return name.text in (self._roles if kind.is_bare("ROLE") else self._tablespaces)
        begin = " ".join(HIDDEN if word.is_string else word.text for word in tokens[:4])
        self.warnings.append(f"not understood in the globals, and left out: {begin}")
        return False

    def _run(self, command: str) -> bool:
        """Execute a command; a failure becomes a warning. Return whether it succeeded."""
        if reason := self._failure(command):
            self.warnings.append(f"not done: {redacted_sql(command, self._tokens(command))}: {reason}")
        return reason is None

    def _failure(self, command: str) -> str | None:
        """Execute a command; return the reason if it fails. A transaction around it stays usable."""
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

    def _tokens(self, statement: str) -> list[Token]:
        return tokenize(statement, backslashes=self._backslashes)

    def _exists(self, table: str, column: str, name: str) -> bool:
        query = f"select from {table} where {column} = %s"
        return self._connection.execute(query.encode(), [name]).fetchone() is not None
