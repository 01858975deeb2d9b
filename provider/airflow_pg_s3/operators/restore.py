"""The operator that restores a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import conf
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

from airflow_pg_s3.hooks.options import DEFAULT_THAW_DAYS, THAW_INTERVAL, RestoreOptions
from airflow_pg_s3.operators.base import PgS3Operator
from airflow_pg_s3.telemetry.links import BACKUP_LINKS


class PgS3RestoreOperator(PgS3Operator):
    """Restore a backup into a PostgreSQL database: in parallel, streaming, with every byte checked.

    All arguments but `deferrable` are templated; SQL that ends in ``.sql`` is the name of a file that holds it.

    :param backup: URI of the backup's manifest, as `PgS3BackupOperator` and `PgS3ListBackupsOperator` return it;
        or ``s3://bucket/prefix/<database>/<name>``, where the name is ``latest``, ``latest-verified``, a time such
        as ``2026-11-20T03:00`` (the newest that began then or before) or the unique beginning of an id;
        or URI of another tool's archive: pg_dump's formats custom, tar and plain, or a directory archive packed
        with tar, uncompressed or compressed by gzip or zstd; give either this or `repository`.
    :param repository: restore the latest backup in this one: ``s3://bucket/any/prefix``, or a name in the option
        ``[pg_s3] repositories``.
    :param source_database: with `repository`: the database that was backed up; None for one of the same name as
        the database to restore into.
    :param verified_only: with `repository`: take the latest verified backup.
    :param postgres_conn_id: Postgres connection of the target.
    :param aws_conn_id: AWS connection; None for the machine's own credentials.
    :param database: database to restore into, whichever was backed up; None for the connection's schema. A missing
        database is created with the source's encoding and locale. If this is None, and the connection's database
        has another name than the one that was backed up, ``replace`` refuses, and the other modes warn in
        ``warnings``.
    :param if_exists: ``fail`` refuses a database that holds anything; ``clean`` first drops what the backup also
        holds, except the schema public and installed extensions; ``replace`` restores into a new database beside
        the existing one and then swaps their names in one transaction.
    :param keep_previous: with ``replace``, keep the old database as ``<name>__before_<6 hex digits>``, for you to
        drop; if False, it is dropped right after the swap.
    :param allow_partial: allow ``replace`` and ``clean`` with a backup that was made with options such as
        ``--exclude-table-data`` or ``--schema=…`` (``left_out_by``): the target loses what these left out.
    :param single_transaction: run ``clean`` and ``data_only`` restores in one transaction, so that a failure
        changes nothing. It uses one connection, whatever `jobs` is, and a lock on each object
        (``max_locks_per_transaction``). If False, `jobs` connections restore, and ``clean`` drops first: a failure
        leaves the database neither old nor new.
    :param jobs: number of tables restored at the same time, each over a connection of its own.
    :param tables: restore only these tables, with their indexes, constraints, triggers and so on: patterns such as
        ``public.orders`` or ``audit.*``.
    :param schemas: restore only these schemas, with everything in them.
    :param exclude_tables: restore all but these tables and what depends on them: patterns as in `tables`. An
        extension's table only loses its rows. ``replace`` also needs `allow_partial`.
    :param schema_only: restore definitions without data.
    :param data_only: restore data into tables that exist and are empty.
    :param create_database: create a database that does not exist; if False, a missing database is an error.
    :param pg_restore_options: further options for pg_restore, one per list item; options that leave out rows or
        objects are refused.
    :param no_owner: make the connection's user the owner of everything, instead of the owners in the source.
    :param no_privileges: leave out GRANT and REVOKE.
    :param restore_globals: first create the roles, memberships, settings of roles and tablespaces that the backup
        holds (made with ``include_globals``) and the server lacks; existing ones are not changed.
    :param managed_service: for a user who is not a superuser (RDS, Cloud SQL, Azure): leave out what the server
        does not allow the user to create, with a sentence in ``warnings``. Data is never left out. See
        docs/managed-services.md.
    :param pre_restore_sql: a command, or a list of commands, run in the target in one transaction before anything
        is dropped or restored. Use it for settings that extensions need while their rows are loaded, by ``ALTER
        DATABASE``, as rows are loaded in other sessions.
    :param pre_data_sql: the same, but run after types, functions and tables are created, and before rows, indexes
        and constraints. Use it for ``ALTER FUNCTION … SET search_path = …``.
    :param post_restore_sql: a command, or a list of commands, run in the restored database in one transaction;
        with ``replace`` before the swap. Use it for masking.
    :param age_identity_conn_id: connection whose password holds the age identity of an encrypted backup.
    :param spool_dir: folder for small members, and for archives of other tools that cannot be streamed; the
        system's temporary folder if None.
    :param allow_unsafe_psql: replay another tool's plain dump even with a psql that the dump can make run commands
        on the worker (CVE-2025-8714, CVE-2026-18408).
    :param thaw: if objects of the backup are in an archive storage class (S3 Glacier), request their restore by S3
        in this tier, ``Standard``, ``Bulk`` or ``Expedited``, and wait until they can be read; if None, such a
        backup is refused.
    :param thaw_days: number of days for which S3 keeps the readable copies.
    :param deferrable: wait for S3 in the triggerer instead of in a worker.
    :param s3_extra_args: further arguments of S3 requests, such as those of SSE-C, ``RequestPayer`` or
        ``ExpectedBucketOwner``; each request gets those that it accepts. The connection may have them as well, see
        docs/s3-compatible.md.
    :returns: ``uri`` (of the backup), ``database``, ``backup_id``, ``tables``, ``rows``, ``raw_bytes``,
        ``duration_seconds``, ``previous_database`` (name of the replaced database if it is kept, otherwise None),
        ``warnings`` (a sentence for each difference from the source).
    :raises AirflowFailException: the request cannot work; nothing was touched, and a retry would not help.
    """

    template_fields: Sequence[str] = (
        "backup",
        "repository",
        "source_database",
        "verified_only",
        "postgres_conn_id",
        "aws_conn_id",
        "database",
        "if_exists",
        "keep_previous",
        "allow_partial",
        "single_transaction",
        "jobs",
        "tables",
        "schemas",
        "exclude_tables",
        "schema_only",
        "data_only",
        "create_database",
        "pg_restore_options",
        "no_owner",
        "no_privileges",
        "restore_globals",
        "managed_service",
        "pre_restore_sql",
        "pre_data_sql",
        "post_restore_sql",
        "age_identity_conn_id",
        "spool_dir",
        "allow_unsafe_psql",
        "thaw",
        "thaw_days",
        "s3_extra_args",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "tables": "json",
        "schemas": "json",
        "exclude_tables": "json",
        "pg_restore_options": "json",
        "pre_restore_sql": "sql",
        "pre_data_sql": "sql",
        "post_restore_sql": "sql",
        "s3_extra_args": "json",
    }
    ui_color = "#e5f5e0"
    operator_extra_links = BACKUP_LINKS

    def __init__(
        self,
        *,
        backup: str | None = None,
        repository: str | None = None,
        source_database: str | None = None,
        verified_only: bool | str = False,
        postgres_conn_id: str = "postgres_default",
        aws_conn_id: str | None = "aws_default",
        database: str | None = None,
        if_exists: str = "fail",
        keep_previous: bool | str = True,
        allow_partial: bool | str = False,
        single_transaction: bool | str = True,
        jobs: int | str = 2,
        tables: Sequence[str] | str | None = None,
        schemas: Sequence[str] | str | None = None,
        exclude_tables: Sequence[str] | str | None = None,
        schema_only: bool | str = False,
        data_only: bool | str = False,
        create_database: bool | str = True,
        pg_restore_options: Sequence[str] | str = (),
        no_owner: bool | str = False,
        no_privileges: bool | str = False,
        restore_globals: bool | str = False,
        managed_service: bool | str = False,
        pre_restore_sql: Sequence[str] | str | None = None,
        pre_data_sql: Sequence[str] | str | None = None,
        post_restore_sql: Sequence[str] | str | None = None,
        age_identity_conn_id: str | None = None,
        spool_dir: str | None = None,
        allow_unsafe_psql: bool | str = False,
        thaw: str | None = None,
        thaw_days: int | str = DEFAULT_THAW_DAYS,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        s3_extra_args: Mapping[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(aws_conn_id=aws_conn_id, s3_extra_args=s3_extra_args, **kwargs)
        self.backup = backup
        self.repository = repository
        self.source_database = source_database
        self.verified_only = verified_only
        self.postgres_conn_id = postgres_conn_id
        self.database = database
        self.if_exists = if_exists
        self.keep_previous = keep_previous
        self.allow_partial = allow_partial
        self.single_transaction = single_transaction
        self.jobs = jobs
        self.tables = tables
        self.schemas = schemas
        self.exclude_tables = exclude_tables
        self.schema_only = schema_only
        self.data_only = data_only
        self.create_database = create_database
        self.pg_restore_options = pg_restore_options
        self.no_owner = no_owner
        self.no_privileges = no_privileges
        self.restore_globals = restore_globals
        self.managed_service = managed_service
        self.pre_restore_sql = pre_restore_sql
        self.pre_data_sql = pre_data_sql
        self.post_restore_sql = post_restore_sql
        self.age_identity_conn_id = age_identity_conn_id
        self.spool_dir = spool_dir
        self.allow_unsafe_psql = allow_unsafe_psql
        self.thaw = thaw
        self.thaw_days = thaw_days
        self.deferrable = deferrable

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Restore, and return the facts about the restore."""
        hook = self._hook(context, self._repository_of_latest(self.backup, self.repository))
        facts = hook.restore(
            self.backup or None,
            self.postgres_conn_id,
            self.database,
            source_database=self.source_database,
            verified_only=self.verified_only,
            on_thaw=self._defer_thaw if self.deferrable else None,
            **self._given(RestoreOptions.__annotations__),
        )
        return self._report(context, facts, hook)

    def go_on(self, context: Mapping[str, Any], event: Any, backup: str) -> dict[str, Any]:
        """Check S3 again, and restore; called by Airflow after a deferral.

        :param backup: URI of the backup that was asked for, whichever is the latest by now.
        """
        self.backup, self.repository, self.source_database, self.verified_only = backup, None, None, False
        return self.execute(context)

    def _defer_thaw(self, backup: str) -> None:
        self.defer(trigger=TimeDeltaTrigger(THAW_INTERVAL), method_name="go_on", kwargs={"backup": backup})
