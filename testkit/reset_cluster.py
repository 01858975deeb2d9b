"""Removes from a server what tests have created, so that the next test can use it as if it were new."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from testkit.postgres import Cluster

_DATABASES = "select datname from pg_database where datname not in ('postgres', 'template0', 'template1')"
_TABLESPACES = "select spcname from pg_tablespace where spcname !~ '^pg_'"
_ROLES = "select rolname from pg_roles where rolname !~ '^pg_' and rolname <> current_user"


def wipe(cluster: Cluster) -> None:
    """Drop all databases, tablespaces and roles that a new server does not have."""
    with cluster.connect() as connection:
        for kind, query in {"database": _DATABASES, "tablespace": _TABLESPACES}.items():
            for (name,) in connection.execute(query).fetchall():
                connection.execute(sql.SQL(f"DROP {kind} {{}}").format(sql.Identifier(name)))
        roles = [sql.Identifier(name) for (name,) in connection.execute(_ROLES).fetchall()]
        if roles:
            # In one command, as roles may have granted privileges to each other.
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.SQL(", ").join(roles)))
