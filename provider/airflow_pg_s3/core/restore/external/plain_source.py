"""A source that psql replays as it is: a plain dump."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.databases import run_sql_in
from airflow_pg_s3.core.postgres.libpq_keywords import check_keywords
from airflow_pg_s3.core.postgres.subscriptions import detach_restored, subscriptions_of
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.existing_objects import has_public
from airflow_pg_s3.core.restore.external.detect import LOOK_BYTES, ExternalArchive
from airflow_pg_s3.core.restore.external.plain_script import Script
from airflow_pg_s3.core.restore.external.psql import Psql, choose_psql
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.source import Amounts
from airflow_pg_s3.core.restore.target import Target, finish, refuse_older


class PlainSource:
    """A plain dump."""

    def __init__(self, dump: ExternalArchive, context: RestoreContext) -> None:
        self._dump = dump
        self._context = context
        self.name = dump.name
        self.description = dump.description

    def plan(self, target: Target) -> Replay:
        """Choose psql; nothing is touched.

        :raises InputError: an argument has no effect on a plain dump, psql is missing, or the server is too old.
        :raises DataConflict: the target holds something that is in the way.
        """
        request = self._context.request
        _refuse_what_has_no_effect(request)
        psql = choose_psql(request.client_path, allow_unsafe=request.allow_unsafe_psql)
        check_keywords(target.params, Path(psql.path).parent, psql.version)
        script = Script(self._dump.beginning[:LOOK_BYTES], self._dump.chunks)
        if script.version is not None:
            refuse_older(target.version, script.version)
        target.check()
        return Replay(dump=self._dump, script=script, psql=psql, target=target, context=self._context)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The plan of a plain dump's restore."""

    dump: ExternalArchive
    script: Script
    psql: Psql
    target: Target
    context: RestoreContext

    @property
    def program(self) -> str:
        """Name and version of the program that restores."""
        return f"psql {self.psql.version}"

    def prepare(self) -> None:
        """Create the target's database if it is missing."""
        self.target.prepare(None)

    def fill(self) -> Amounts:
        """Replay the dump; raises as `Script.replay`."""
        database = self.target.params
        run_sql_in(database, self.context.request.pre_restore_sql)
        raw_bytes = self.script.replay(self.psql, self.target, self.context, has_public=has_public(self.target))
        with database.connect() as connection:
            names = {each.name for each in subscriptions_of(connection)}  # the database was empty
            detach_restored(connection, names, self.context.warn)
        finish(self.context, database, has_statistics=False)
        return Amounts(tables=None, rows=None, raw_bytes=raw_bytes, read_bytes=self.dump.stored_bytes)


def _refuse_what_has_no_effect(request: RestoreRequest) -> None:
    if request.if_exists == "clean":
        raise InputError(
            'a plain dump cannot be restored with if_exists="clean", as what it drops was decided when it was '
            'made: give if_exists="replace", or an empty database'
        )
    if request.pg_restore_options:
        raise InputError("pg_restore_options have no effect on a plain dump, which psql replays: remove them")
    for argument in ("no_owner", "no_privileges", "managed_service"):
        if getattr(request, argument):
            raise InputError(
                f"{argument}=True has no effect on a plain dump, which psql replays as it is: leave it "
                "out, and create the roles that the dump names"
            )
