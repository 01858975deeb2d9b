"""The choice of a pg_dump that leaves out the server's internal column options.

Servers from 15.20 and 17.12 on store ``pg_attver`` as an option of every column. A pg_dump that does not know it
dumps it like a user's option, and such a backup restores on no other server. Version numbers do not show which
pg_dump knows it, as each major version has its own minor versions. So each pg_dump is tried on one table.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import Cancelled, ClientProgramError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.postgres.client_program import running
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.libpq_keywords import check_keywords
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.workspace.workspace import Workspace

_POLL_SECONDS = 0.005
# Finds such an option and its table, preferably one of information_schema, which everybody may read and nobody
# locks. After an upgrade in place, these may lack the option. The name is in the database's encoding. Extensions'
# tables are left out, as pg_dump does not dump them.
_INTERNAL = r"""
select split_part(option, '=', 1), convert_to(format('%I.%I', nspname, relname), getdatabaseencoding())
from pg_attribute join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = relnamespace
     cross join unnest(attoptions) option
where option like 'pg\_%' and attnum > 0 and not attisdropped and relkind in ('r', 'p', 'f', 'm')
      and nspname !~ '^pg_' and not exists (
          select from pg_depend where classid = 'pg_class'::regclass and objid = c.oid and deptype = 'e')
order by nspname <> 'information_schema', not has_table_privilege(c.oid, 'select') limit 1
"""


def choose_pg_dump(
    connection: psycopg.Connection[tuple[Any, ...]],
    source: ConnectionParameters,
    server: Server,
    *,
    search: Sequence[str],
    spool_dir: str | None,
    cancel: threading.Event,
) -> ClientTools:
    """Choose the `pg_dump` for a database: the best that leaves out the server's internal column options.

    :param connection: a connection to the database.
    :param search: folders to search before ``PATH`` and the standard folders.
    :raises InputError: there is none (the message lists those found, and says what to install), or the best one
        does not know a keyword of the connection.
    :raises Cancelled: `cancel` was set.
    """
    fitting = client_versions.for_dump(server.version_num, search=search)
    check_keywords(source, fitting[0].folder, fitting[0].version)
    if fitting[0].is_of_minor(server.version_num):
        return fitting[0]
    row = connection.execute(_INTERNAL).fetchone()
    if row is None:
        return fitting[0]
    option, table = row
    with Workspace(spool_dir) as workspace:
        env = source.environment(workspace.folder) | workspace.environment
        file = workspace.folder / "table.sql"
        arguments = [
            "--schema-only",
            "--no-password",
            f"--encoding={server.encoding}",
            f"--table={os.fsdecode(table)}",
            f"--file={file}",
            f"--dbname={source.dbname_argument()}",
        ]
        for tools in fitting:
            check_keywords(source, tools.folder, tools.version)
            is_dumped = _succeeds([tools.path("pg_dump"), *arguments], env, cancel)
            if is_dumped and f"{option}=".encode() not in file.read_bytes():
                return tools
    raise client_versions.none_fits(
        f"no pg_dump here is good enough for PostgreSQL {server.version}, which stores its internal option "
        f"{option} with columns: a backup that holds it restores nowhere else, and none here leaves it out",
        server.version_num // 10000,
        search,
        version=server.version,
    )


def _succeeds(argv: list[str], env: dict[str, str], cancel: threading.Event) -> bool:
    with running(argv, env=env) as program:
        while program.poll() is None:
            if cancel.wait(_POLL_SECONDS):
                raise Cancelled("stopped while pg_dump was asked what it writes; nothing was touched")
        try:
            program.check()
        except ClientProgramError:
            return False
    return True
