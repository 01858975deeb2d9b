"""Looks at the server and the client programs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.backup.standby import exports_wrong_snapshots
from airflow_pg_s3.core.doctor.findings import Findings
from airflow_pg_s3.core.errors import Cancelled, InputError
from airflow_pg_s3.core.postgres import server
from airflow_pg_s3.core.postgres.choose_pg_dump import choose_pg_dump
from airflow_pg_s3.core.postgres.client_program import running
from airflow_pg_s3.core.postgres.client_versions import ClientTools, installed
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.server import ServerFacts
from airflow_pg_s3.core.reporting import human, human_age, some_of
from airflow_pg_s3.core.verify.throwaway_server import choose_installation
from airflow_pg_s3.core.workspace.workspace import Workspace

_Connection = psycopg.Connection[tuple[Any, ...]]
_LOOK_SECONDS = 0.05
_CLOCK_SECONDS = 60.0
# Beside pg_dump's jobs: its leader, and the session that marks the backup as alive.
_MORE_SESSIONS = 2
_SHOWN = 5
_OF_USERS = r"""
nspname !~ '^pg_' and nspname <> 'information_schema' and not exists (
    select from pg_depend where classid = 'pg_class'::regclass and objid = c.oid and deptype = 'e')
"""
# What pg_dump would be refused; a table that cannot be read cannot even be locked.
_UNREADABLE = f"""
select format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace
where {_OF_USERS} and relkind in ('r', 'p', 'm', 'S')
      and not (has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))
order by 1
"""
_ROWS_HIDDEN = f"""
select format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace
where {_OF_USERS} and relrowsecurity and row_security_active(c.oid)
order by 1
"""
_LARGE_OBJECTS = """
select oid::text from pg_largeobject_metadata where not pg_has_role(lomowner, 'usage') and not exists (
    select from aclexplode(lomacl)
    where privilege_type = 'SELECT' and (grantee = 0 or pg_has_role(grantee, 'usage')))
and not (select rolsuper from pg_roles where rolname = current_user)
order by oid
"""
_FREE_SESSIONS = """
select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - (select count(*) from pg_stat_activity where backend_type = 'client backend')
"""


def examine_postgres(
    source: ConnectionParameters,
    *,
    jobs: int,
    search: Sequence[str],
    spool_dir: str | None,
    findings: Findings,
    cancel: threading.Event,
) -> int | None:
    """Look at the server, the rights there, and the programs for it.

    :returns: the size of the database in bytes; None if that is not known.
    :raises Cancelled: told to stop.
    """
    size_bytes = None
    with findings.failing("connection"), source.connect() as connection:
        facts = server.inspect(connection, source)
        size_bytes = facts.size_bytes
        findings.ok(
            "connection",
            f"PostgreSQL {facts.server.version} at {source.endpoint}, {human(size_bytes)}; it keeps its session",
        )
        pinned = source.pinned(connection)
        _check_clock(facts, findings)
        with findings.failing("sessions"):
            _check_sessions(connection, jobs, findings)
        with findings.failing("rights in PostgreSQL"):
            _check_rights(connection, findings)
        if exports_wrong_snapshots(connection):
            findings.warn(
                "standby",
                f"this standby of PostgreSQL {facts.server.version} exports wrong snapshots",
                "upgrade it to its newest minor version, or use jobs=1",
            )
        with findings.failing("client programs"):
            tools = choose_pg_dump(
                connection, pinned, facts.server, search=search, spool_dir=spool_dir, cancel=cancel
            )
            _note_programs(tools, facts, search, findings)
            _note_others(tools, facts, search, findings)
            with findings.failing("pg_dump"):
                _try_pg_dump(tools, pinned, spool_dir, cancel)
                findings.ok("pg_dump", "it connects, locks every table and reads all definitions")
    return size_bytes


def _check_clock(facts: ServerFacts, findings: Findings) -> None:
    seconds = (facts.now - datetime.now(UTC)).total_seconds()
    if abs(seconds) <= _CLOCK_SECONDS:
        findings.ok("clock of PostgreSQL", "as this machine's")
        return
    findings.warn(
        "clock of PostgreSQL",
        f"it is {human_age(seconds)} {'ahead of' if seconds > 0 else 'behind'} this machine's",
        "set both by NTP: ids of backups, their ages and retention go by the server's clock",
    )


def _check_sessions(connection: _Connection, jobs: int, findings: Findings) -> None:
    (free,) = connection.execute(_FREE_SESSIONS).fetchone() or (0,)
    needed = jobs + _MORE_SESSIONS
    if free < needed:
        findings.fail(
            "sessions",
            f"{free} are free, and {jobs} jobs take {needed}",
            "use fewer jobs, or raise max_connections",
        )
    else:
        findings.ok("sessions", f"{free} are free, {needed} are needed")


def _check_rights(connection: _Connection, findings: Findings) -> None:
    role = sql.Identifier(connection.info.user).as_string()
    lacking = [
        (
            _UNREADABLE,
            "cannot read",
            f"GRANT pg_read_all_data TO {role} (or SELECT on each, and USAGE on its schema)",
        ),
        (_ROWS_HIDDEN, "does not see all rows of", f"ALTER ROLE {role} BYPASSRLS, or back up as their owner"),
        (_LARGE_OBJECTS, "cannot read the large objects", "back up as their owner, or as a superuser"),
    ]
    before = len(findings)
    for query, what, advice in lacking:
        names = [name for (name,) in connection.execute(query).fetchall()]
        if names:
            findings.fail("rights in PostgreSQL", f"{role} {what} {some_of(names, _SHOWN)}", advice)
    if len(findings) == before:
        findings.ok("rights in PostgreSQL", f"{role} can read every table, sequence and large object")


def _note_programs(tools: ClientTools, facts: ServerFacts, search: Sequence[str], findings: Findings) -> None:
    found = f"pg_dump and pg_restore {tools.label}, for a server {facts.server.version}"
    if tools.major == facts.server.version_num // 10000 and not tools.is_of_minor(facts.server.version_num):
        findings.warn(
            "client programs",
            f"{found}, which is of a later minor version",
            f"upgrade the package postgresql-client-{tools.major}: keep the minors together, clients first",
        )
    else:
        findings.ok("client programs", found)
    try:
        installation = choose_installation(facts.server.version_num // 10000, search)
    except InputError as error:
        findings.warn("throwaway server", str(error), "only verifications without a server of their own need it")
    else:
        findings.ok("throwaway server", f"PostgreSQL {installation.version} in {installation.folder}")


def _note_others(tools: ClientTools, facts: ServerFacts, search: Sequence[str], findings: Findings) -> None:
    """Note the client programs that were found and not taken."""
    others = [one.label for one in installed(search) if one.folder != tools.folder]
    if others:
        why = f"{tools.version} fits a server {facts.server.version} better"
        findings.ok("other programs", f"not used, as {why}: {', '.join(others)}")


def _try_pg_dump(
    tools: ClientTools, source: ConnectionParameters, spool_dir: str | None, cancel: threading.Event
) -> None:
    with Workspace(spool_dir) as workspace:
        argv = [
            tools.path("pg_dump"),
            "--schema-only",
            "--no-password",
            "--lock-wait-timeout=10s",
            f"--dbname={source.dbname_argument()}",
        ]
        env = source.environment(workspace.folder) | workspace.environment
        with running(argv, env=env) as program:
            while program.poll() is None:
                if cancel.wait(_LOOK_SECONDS):
                    raise Cancelled("the examination was stopped")
            program.check()
