"""The restore of a pg_dump archive, ours or another tool's: its requirements, its steps and their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import psycopg

from airflow_pg_s3.core.postgres.archive.requirements import Requirements
from airflow_pg_s3.core.postgres.archive.toc import Entry
from airflow_pg_s3.core.postgres.databases import run_sql, run_sql_in
from airflow_pg_s3.core.postgres.encodings import psycopg_knows
from airflow_pg_s3.core.postgres.subscriptions import detach_restored
from airflow_pg_s3.core.restore import preflight
from airflow_pg_s3.core.restore.clean import check_encoding
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.definer import Definer, PlainDefiner
from airflow_pg_s3.core.restore.existing_objects import change_owner_of_public, standing
from airflow_pg_s3.core.restore.links_to_other_tables import MISSING, MISSING_OR_DIFFERENT, tie
from airflow_pg_s3.core.restore.load.copy_session import LoadingOptions, become, loading_options
from airflow_pg_s3.core.restore.load.load import on_one_lane
from airflow_pg_s3.core.restore.managed_service import UnprivilegedRestore
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive
from airflow_pg_s3.core.restore.request import can_be_atomic
from airflow_pg_s3.core.restore.source import Amounts
from airflow_pg_s3.core.restore.target import Target, finish

_Connection = psycopg.Connection[tuple[Any, ...]]


class Loader(Protocol):
    """Loads everything in an archive that the restore's `Definer` does not create."""

    @property
    def amounts(self) -> Amounts:
        """How much was loaded."""

    def obstacles(self, restore: ArchiveRestore) -> Mapping[str, bool]:
        """Each possible obstacle to loading in one transaction, and whether it applies."""

    def load(self, restore: ArchiveRestore) -> None:
        """Load what the definer does not create."""

    def restore_in_one_transaction(self, restore: ArchiveRestore) -> None:
        """Run the user's commands, drop what ``clean`` drops, and restore: everything or nothing."""


@dataclass(frozen=True, kw_only=True)
class ArchiveRestore:
    """The plan of a restore.

    :param archive: the archive; its entries are those that the target lacks.
    :param needs: what the target must have before the restore.
    :param definer: drops existing objects, and creates the definitions that the loader does not.
    :param public: the entry of the schema public, if the schema is to get the owner that the archive names.
    :param keeps_extensions: whether the target keeps extensions that the archive also holds.
    :param in_one_transaction: whether the whole restore is one transaction.
    """

    archive: OpenedArchive
    needs: Requirements
    definer: Definer
    public: Entry | None
    keeps_extensions: bool
    loader: Loader
    target: Target
    context: RestoreContext
    in_one_transaction: bool = False

    @property
    def program(self) -> str:
        """Name and version of the program that restores."""
        return f"pg_restore {self.archive.tools.version}"

    def prepare(self) -> None:
        """Check that the target has what the restore needs, then create its database if it is missing.

        :raises InputError: something is missing; nothing was restored.
        """
        preflight.prepare(self.target, self.needs, self.archive, self.context)
        if self.public is not None:
            # The owner comes before the privileges, as in pg_restore.
            with self.target.params.connect() as connection:
                change_owner_of_public(connection, self.public, self.context.warn)

    def fill(self) -> Amounts:
        """Restore; raises as `restore`."""
        if self.in_one_transaction:
            self.loader.restore_in_one_transaction(self)
        else:
            self._define()
            self.loader.load(self)
            with self.target.params.connect() as connection:
                self.definer.complete(connection)
                self.link(connection)
            self.finish()
        return self.loader.amounts

    def _define(self) -> None:
        """Run the user's commands, then the definer's drops and definitions.

        With ``clean``, these are one transaction, unless the user has turned that off.
        """
        request = self.context.request

        def in_one(connection: _Connection) -> None:
            with connection.transaction():
                self.run_as_login(connection, request.pre_restore_sql)
                self.definer.define(connection)

        if request.if_exists == "clean" and request.single_transaction:
            self.in_session(in_one)
        else:
            run_sql_in(self.target.params, request.pre_restore_sql)
            self.in_session(self.definer.define)

    def in_session(self, work: Callable[[_Connection], None]) -> None:
        """Call a function with a session set up to load rows; it can be cancelled while it waits for a lock."""
        database = self.target.params.database
        on_one_lane(
            self.target.params,
            self.loading_options,
            lambda session: work(session.connection),
            cancel=self.context.cancel,
            stop=self.context.stop,
            cancelled=f"the restore was stopped before it loaded rows; {database!r} may be incomplete",
        )

    def run_as_login(self, connection: _Connection, commands: Sequence[str]) -> None:
        """Run the user's commands in the restore's session, as the role that logged in instead of ``--role``."""
        if not commands:
            return
        role = self.loading_options.role
        if role is not None:
            # Not `reset all`: what these commands have set is meant for the restore.
            connection.execute("reset role")
        run_sql(connection, commands)
        if role is not None:
            become(connection, role)

    def link(self, connection: _Connection) -> None:
        """Create what ties restored tables to others of the target, and detach subscriptions."""
        if self.archive.ties:
            script = self.archive.definitions(self.archive.ties, self.archive.options)
            # A whole database is as it was, but for what the backup does not hold.
            tolerated = MISSING_OR_DIFFERENT if self.context.request.wanted.has_patterns else MISSING
            tie(connection, script, self.archive.toc, self.context.warn, tolerated=tolerated)
        if self.archive.subscriptions:
            detach_restored(connection, self.archive.subscriptions, self.context.warn)

    def finish(self) -> None:
        """Run `post_restore_sql`, and analyze a replacement, before anybody uses the database."""
        finish(self.context, self.target.params, has_statistics=self.archive.has_statistics)

    @property
    def loading_options(self) -> LoadingOptions:
        """Options of the sessions that load rows."""
        return loading_options(self.archive, data_only=self.context.request.wanted.data_only)


def plan_restore(
    archive: OpenedArchive, loader: Loader, target: Target, context: RestoreContext
) -> ArchiveRestore:
    """Decide which entries are restored, what they need, and who creates them; nothing is touched.

    :raises InputError: the restore cannot work.
    """
    request = context.request
    existing = standing(
        archive.entries, target, clean=request.if_exists == "clean", is_part=request.wanted.has_patterns
    )
    public = None if request.no_owner or "no-owner" in dict(archive.given) else existing.public
    # Extensions that the target keeps are included so that their versions are compared.
    needs = archive.requirements([*existing.entries, *existing.extensions])
    archive = replace(archive, entries=existing.entries)
    definer: Definer = PlainDefiner(archive, context)
    if request.managed_service:
        definer = unprivileged = UnprivilegedRestore(archive, context, public=public)
        unprivileged.waive_requirements(needs, target.connection)
        public = None
    restore = ArchiveRestore(
        archive=archive,
        needs=needs,
        definer=definer,
        public=public,
        keeps_extensions=bool(existing.extensions),
        loader=loader,
        target=target,
        context=context,
    )
    return replace(restore, in_one_transaction=_fits_one_transaction(restore))


def _fits_one_transaction(restore: ArchiveRestore) -> bool:
    """True if the restore must be all or nothing, and can be."""
    request, encoding = restore.context.request, restore.archive.toc.encoding
    if request.if_exists == "clean":
        check_encoding(encoding)
        what = "if_exists='clean'"
    elif request.wanted.data_only and psycopg_knows(encoding):
        what = "data_only"
    else:
        return False
    return can_be_atomic(request, restore.loader.obstacles(restore), restore.context.log, what=what)
