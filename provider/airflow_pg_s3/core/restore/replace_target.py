"""A database that is restored beside the live one and then takes its place in one transaction."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.errors import DataConflict, InputError, PgS3Error
from airflow_pg_s3.core.postgres.archive.toc import Entry
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.database_settings import set_command
from airflow_pg_s3.core.postgres.databases import (
    comment_on,
    connect_beside,
    create_database,
    drop_beside,
    is_used,
    may_not_create,
    sibling_name,
    value_of,
)
from airflow_pg_s3.core.postgres.errors import RIGHTS, try_execute
from airflow_pg_s3.core.postgres.server import Server, advisory_key
from airflow_pg_s3.core.postgres.subscriptions import subscriptions_of
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.target import InPlaceTarget, Target

_Connection = psycopg.Connection[tuple[Any, ...]]
_LOCK_PATIENCE_SECONDS = 15.0
_SWAP_TRIES = 6
_TERMINATE_EVERY_SECONDS = 0.02


def open_target(context: RestoreContext) -> Target:
    """Return the target that `if_exists` asks for."""
    request = context.request
    if request.if_exists == "replace":
        return SwapTarget(
            request.target,
            jobs=request.jobs,
            keep_previous=request.keep_previous,
            managed_service=request.managed_service,
            cancel=context.cancel,
            log=context.log,
        )
    return InPlaceTarget(
        request.target,
        must_be_empty=request.if_exists == "fail",
        log=context.log,
        may_create=request.create_database,
    )


class SwapTarget(Target):
    """A new database beside the live one; `promote` swaps their names.

    The live database is not touched until then. The swap is one transaction: it has happened or it has not. The
    next run removes what a killed run has left. An advisory lock on the server keeps two runs apart.

    :param live: the database to replace, which need not exist.
    :param jobs: number of connections that the restore will open.
    :param keep_previous: keep the old database, as ``<name>__before_<6 hex digits>``.
    :param managed_service: warn about properties of the live database that the role may not set, and go on.
    :param cancel: set if the connection is lost, so that the restore ends.
    """

    def __init__(
        self,
        live: ConnectionParameters,
        *,
        jobs: int,
        keep_previous: bool,
        managed_service: bool = False,
        cancel: threading.Event,
        log: Log,
    ) -> None:
        token = secrets.token_hex(3)
        super().__init__(live.of(sibling_name(live.database, "restore", token)))
        self._live = live.database
        self._before = sibling_name(self._live, "before", token)
        self._jobs = jobs
        self._keep_previous = keep_previous
        self._managed_service = managed_service
        self._cancel = cancel
        self._log = log

    def __enter__(self) -> SwapTarget:
        what = f"the connection that keeps other restores from replacing {self._live!r}"
        self._keep(connect_beside(self._live_params), what, self._cancel)
        return self

    def _drop(self) -> None:
        drop_beside(self._connection, self.params)

    @property
    def _live_params(self) -> ConnectionParameters:
        return self.params.of(self._live)

    @property
    def exists(self) -> bool:
        """False: the restore goes into a new database."""
        return False

    def holds(self, entry: Entry) -> bool:
        """False: a new database is empty."""
        return False

    def check(self, relations: Sequence[tuple[str, str]] | None = None) -> None:
        """Check everything that can be checked before anything is touched.

        :raises InputError: the swap could not work; the message names every reason.
        :raises DataConflict: another restore is replacing the same database.
        """
        reasons = list(_obstacles(self._connection, self._live, self._jobs))
        if reasons:
            raise InputError(f"the database {self._live!r} cannot be replaced: {'; '.join(reasons)}")
        self._lock()

    def prepare(self, like: Server | None) -> None:
        """Remove what earlier runs left, and create the database.

        :param like: the source server, for its encoding and locale; None for the target server's defaults.
        :raises InputError: the server refuses.
        """
        self._remove_leftovers()
        name = self.params.database
        create_database(self._connection, name, like)
        self._connection.execute(comment_on(name, self._mark("is being restored")))

    def promote(self) -> None:
        """Give the new database the live one's owner, privileges, settings and name.

        :raises PgS3Error: sessions kept the live database busy; it is unchanged.
        """
        exists, comment = self._copy_properties()
        commands = [sql.SQL("alter database {} rename to {}").format(_id(self.params.database), _id(self._live))]
        if exists:
            rename = sql.SQL("alter database {} rename to {}").format(_id(self._live), _id(self._before))
            # The mark is set in the same transaction: after a crash, the next run knows what this database is.
            mark = comment_on(self._before, comment if self._keep_previous else self._mark("was replaced"))
            commands = [rename, *commands, mark]
        commands.append(comment_on(self._live, comment))
        began = time.monotonic()
        # Sessions of the new database end too: a pooler keeps idle ones open.
        with _ending_sessions(self._live_params, [self._live, self.params.database]):
            self._swap(commands)
        is_new = f"created the database {self._live!r}, which did not exist"
        done = f"{self._live} is replaced" if exists else is_new
        self._log.info("%s; the swap took %.2f s", done, time.monotonic() - began)
        if exists and self._keep_previous:
            self.previous = self._before
            self._log.info("the old database is kept as %s: drop it when you need it no more", self._before)
        elif exists:
            self._drop_leftover(self._before)

    def _swap(self, commands: list[sql.Composed]) -> None:
        for attempt in range(1, _SWAP_TRIES + 1):
            try:
                with self._connection.transaction():
                    for command in commands:
                        self._connection.execute(command)
            except psycopg.errors.ObjectInUse as error:
                # The server itself waits five seconds for the sessions to end.
                if attempt == _SWAP_TRIES:
                    raise PgS3Error(
                        f"the database {self._live!r} was not replaced, as sessions kept it busy: {error}"
                    ) from error
            else:
                return

    def _lock(self) -> None:
        key = advisory_key(f"replace {self._live}")
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        # The session of a killed run ends only when the server notices, which takes a moment.
        while not value_of(self._connection, "select pg_try_advisory_lock(%s)", key):
            if time.monotonic() > deadline:
                raise DataConflict(f"another restore is replacing the database {self._live!r} right now")
            time.sleep(0.2)

    def _remove_leftovers(self) -> None:
        being_restored, replaced = self._mark("is being restored"), self._mark("was replaced")
        names = self._connection.execute(
            "select datname, shobj_description(oid, 'pg_database') from pg_database where datname <> %s",
            [self._live],
        ).fetchall()
        # A run killed just after CREATE DATABASE leaves no mark; the database is known by its full name.
        unmarked = re.compile(re.escape(self._live) + "__restore_[0-9a-f]{6}")
        for name, comment in names:
            is_ours = comment == being_restored or (comment is None and unmarked.fullmatch(name))
            if is_ours and is_used(self._connection, name):
                # Its restore may still be running: it lost the session with the lock, and has not noticed yet.
                self._log.warning("%s is of another restore, and in use: the next one will drop it", name)
            elif (is_ours or comment == replaced) and self._drop_leftover(name):
                self._log.info("removed %s, which a restore that was killed had left", name)

    def _drop_leftover(self, name: str) -> bool:
        """Drop a database that is not needed; a failure is only a warning."""
        try:
            drop_beside(self._connection, self._live_params.of(name))
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self._warn(f"the database {name} is still there, as it cannot be dropped: {error}")
            return False
        return True

    def _mark(self, state: str) -> str:
        return f"airflow-provider-pg-s3: {self._live} {state}"

    def _copy_properties(self) -> tuple[bool, str | None]:
        """Copy the live database's properties to the new one; return whether it exists, and its comment."""
        row = self._connection.execute(
            "select d.oid, pg_get_userbyid(datdba), datconnlimit, datacl is not null, shobj_description(d.oid,"
            " 'pg_database') from pg_database d where datname = %s",
            [self._live],
        ).fetchone()
        if row is None:
            return False, None
        oid, owner, limit, has_acl, comment = row
        new = _id(self.params.database)
        query = self._connection.execute
        self._alter(sql.SQL("alter database {} connection limit {}").format(new, sql.Literal(limit)))
        for role, setting in query(
            "select rolname, unnest(setconfig) from pg_db_role_setting left join pg_roles r on r.oid = setrole"
            " where setdatabase = %s",
            [oid],
        ).fetchall():
            command = set_command(new, role, setting)
            if command is None:
                who = "" if role is None else f" of the role {role}"
                self._warn(f"not set: {setting.partition('=')[0]}{who}, as no command can express its value")
            else:
                self._alter(command)
        # The owner comes first: a change of owner turns the old owner's privileges into the new owner's.
        self._alter(sql.SQL("alter database {} owner to {}").format(new, _id(owner)))
        if has_acl:
            self._alter(sql.SQL("revoke all on database {} from public, {}").format(new, _id(owner)))
            for grantee, privilege, grantable in query(
                "select rolname, privilege_type, is_grantable"
                " from pg_database d, aclexplode(datacl) left join pg_roles r on r.oid = grantee where d.oid = %s",
                [oid],
            ).fetchall():
                self._alter(
                    sql.SQL("grant {} on database {} to {}{}").format(
                        sql.SQL(privilege),  # a word of the server's own: CONNECT, CREATE or TEMPORARY
                        new,
                        sql.SQL("public") if grantee is None else _id(grantee),
                        sql.SQL(" with grant option" if grantable else ""),
                    )
                )
        return True, comment

    def _alter(self, command: sql.Composed) -> None:
        tolerated = RIGHTS if self._managed_service else ()
        reason = try_execute(self._connection, command, tolerated=tolerated, heed_warnings=True)
        if reason is not None:
            self._warn(f"not done: {command.as_string(self._connection)}: {reason}")

    def _warn(self, warning: str) -> None:
        self.warnings.append(warning)
        self._log.warning("%s", warning)


def _obstacles(connection: _Connection, live: str, jobs: int) -> Iterator[str]:
    """Yield the reasons why a database cannot be replaced, as far as they can be known before."""
    role = value_of(
        connection, "select rolname from pg_roles where rolname = current_user and not (rolcreatedb or rolsuper)"
    )
    if role is not None:
        yield may_not_create(_id(role).as_string(connection))
    free = value_of(
        connection,
        "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " - count(*) from pg_stat_activity where backend_type = 'client backend'",
    )
    if free < jobs + 2:
        yield f"the server has {free} connections left, and {jobs} jobs take {jobs + 2}"
    if not value_of(connection, "select count(*) from pg_database where datname = %s", live):
        return
    if not value_of(connection, "select pg_has_role(datdba, 'usage') from pg_database where datname = %s", live):
        yield "the role is neither its owner nor a member of it that inherits its rights"
    attached = [each.name for each in subscriptions_of(connection, live) if each.is_attached]
    if attached:
        yield (
            f"its subscriptions {', '.join(attached)} would stay with the old one: detach them first (ALTER "
            "SUBSCRIPTION ... DISABLE, then SET (slot_name = NONE))"
        )
    for what, query in (
        ("prepared transactions", "select count(*) from pg_prepared_xacts where database = %s"),
        ("replication slots", "select count(*) from pg_replication_slots where database = %s"),
    ):
        count = value_of(connection, query, live)
        if count:
            yield f"it has {count} {what}, which would stay with the old one: remove them first"


@contextlib.contextmanager
def _ending_sessions(params: ConnectionParameters, databases: Sequence[str]) -> Iterator[None]:
    """Context manager: keep terminating the sessions of databases until the block ends."""
    stop = threading.Event()

    def terminate(connection: _Connection) -> None:
        with contextlib.suppress(psycopg.Error):
            while not stop.wait(_TERMINATE_EVERY_SECONDS):
                # Databases are given by oid, as their names are about to change. The server ends autovacuum
                # itself.
                pids = connection.execute(
                    "select pid from pg_stat_activity"
                    " where datid = any(%s) and backend_type <> 'autovacuum worker'",
                    [oids],
                    prepare=True,
                ).fetchall()
                for (pid,) in pids:
                    # Skips a session that this role may not end, so that the others are ended all the same.
                    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                        connection.execute("select pg_terminate_backend(%s)", [pid], prepare=True)

    with connect_beside(params) as connection:
        query = "select array_agg(oid) from pg_database where datname = any(%s)"
        oids = value_of(connection, query, databases)
        thread = threading.Thread(target=terminate, args=[connection], name="end sessions", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _id(name: str) -> sql.Identifier:
    return sql.Identifier(name)
