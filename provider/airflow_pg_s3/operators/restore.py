"""Restores a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import conf
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

from airflow_pg_s3 import arguments
from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.repository.thaw import ask_for
from airflow_pg_s3.core.restore.request import IfExists, RestoreRequest, Selection
from airflow_pg_s3.core.restore.restore import restore
from airflow_pg_s3.hooks import connections
from airflow_pg_s3.operators.base import PgS3Operator

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

THAW_INTERVAL = timedelta(minutes=5)
"""How often S3 is asked whether it gives out what was archived."""


class PgS3RestoreOperator(PgS3Operator):
    """Restore a backup into a PostgreSQL database: in parallel, streaming, every byte checked on its way.

    :param backup: URI of the backup's manifest, as `PgS3BackupOperator` and `PgS3ListBackupsOperator` return it;
        or ``s3://bucket/prefix/<database>/<name>`` with ``latest``, ``latest-verified``, a time such as
        ``2026-11-20T03:00`` (the newest that is not younger) or the beginning of an id as its name;
        or the URI of another tool's archive: pg_dump's formats custom, tar and plain, or a directory in a tar,
        each bare or in gzip or zstd (templated).
    :param postgres_conn_id: Postgres connection of the target (templated).
    :param aws_conn_id: AWS connection; None for the machine's own credentials (templated).
    :param database: database to restore into; the connection's schema if None. Created like the source's if it
        does not exist. If it is None, and the connection's has another name than the one that was backed up,
        ``replace`` refuses, and the others say so in ``warnings`` (templated).
    :param if_exists: ``fail`` refuses a database that holds anything; ``clean`` first drops what the backup also
        holds, but for the schema public and installed extensions; ``replace`` restores into a new database beside
        it and then swaps their names in one transaction (templated).
    :param keep_previous: with ``replace``, keep the old database as ``<name>__before_<6 hex digits>``, for you to
        drop; if False, it is dropped as soon as its place is taken.
    :param allow_partial: let ``replace`` and ``clean`` take a backup that was made with options such as
        ``--exclude-table-data`` or ``--schema=…`` (``left_out_by``): what these left out is lost in the target
        (templated).
    :param single_transaction: let ``clean`` drop and restore, and ``data_only`` load, in one transaction, so that
        a failure changes nothing. It takes one connection, whatever `jobs` says, and a lock on each object
        (``max_locks_per_transaction``). If False, `jobs` restore, and ``clean`` drops before: a failure leaves the
        database neither old nor new (templated).
    :param jobs: tables restored at the same time, each over a connection of its own (templated).
    :param tables: restore only these, with their indexes, constraints, triggers and so on: patterns such as
        ``public.orders`` or ``audit.*`` (templated).
    :param schemas: restore only these schemas, with all that they hold (templated).
    :param exclude_tables: restore all but these tables and what depends on them: patterns as for `tables`. Of an
        extension's tables, the rows are left out. With ``replace``, it takes `allow_partial` (templated).
    :param schema_only: restore definitions without data.
    :param data_only: restore data into tables that are there and empty.
    :param create_database: create a database that does not exist; otherwise that is an error.
    :param pg_restore_options: further options for pg_restore, one a list item; none that leaves rows or objects
        out (templated).
    :param no_owner: let everything belong to the user of the connection, instead of the owners in the source
        (templated).
    :param no_privileges: leave out who may do what: GRANT, REVOKE (templated).
    :param restore_globals: first create the roles, memberships, settings of roles and tablespaces that the backup
        holds (made with ``include_globals``) and the server has not; those that exist are kept as they are
        (templated).
    :param managed_service: for a user who is no superuser (RDS, Cloud SQL, Azure): leave out what the server does
        not let the user create, and say so in ``warnings``. Data is never left out. See docs/managed-services.md
        (templated).
    :param pre_restore_sql: a command, or a list of commands, run in the target in one transaction before anything
        is dropped or restored: the place for what extensions want to be set while their rows are loaded, with
        ``alter database``, as rows come in other sessions (templated).
    :param pre_data_sql: the same when all types, functions and tables are there, and before rows, indexes and
        constraints: the place for ``ALTER FUNCTION … SET search_path = …`` (templated).
    :param post_restore_sql: a command, or a list of commands, run in the restored database in one transaction;
        with ``replace`` before the swap: the place for masking (templated).
    :param age_identity_conn_id: connection whose password holds the age identity of an encrypted backup
        (templated).
    :param spool_dir: folder for small members, and for archives of other tools that cannot stream; the system's
        temporary folder if None (templated).
    :param allow_unsafe_psql: replay another tool's plain dump also with a psql that the dump can make run commands
        on the worker (CVE-2025-8714, CVE-2026-18408).
    :param thaw: if objects of the backup lie in an archive storage class (S3 Glacier), ask S3 for all of them, and
        wait until they can be read: ``Standard``, ``Bulk`` or ``Expedited``; if None, such a backup is refused
        (templated).
    :param thaw_days: how many days S3 keeps the copies that can be read (templated).
    :param deferrable: wait for that in the triggerer rather than in a worker.
    :param s3_extra_args: arguments for the S3 requests that accept them, such as those of SSE-C, ``RequestPayer``
        or ``ExpectedBucketOwner``; the connection may have them as well, see docs/s3-compatible.md.
    :returns: ``database``, ``backup_id``, ``tables``, ``rows``, ``raw_bytes``, ``duration_seconds``,
        ``previous_database`` (name of the replaced one if it is kept, else None), ``warnings`` (what is otherwise
        than in the source, a sentence each).
    :raises AirflowFailException: the request cannot work; nothing was touched, and a retry would not help.
    """

    template_fields: Sequence[str] = (
        "backup",
        "postgres_conn_id",
        "aws_conn_id",
        "database",
        "if_exists",
        "allow_partial",
        "single_transaction",
        "jobs",
        "tables",
        "schemas",
        "exclude_tables",
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
        "thaw",
        "thaw_days",
    )
    ui_color = "#e5f5e0"

    def __init__(
        self,
        *,
        backup: str,
        postgres_conn_id: str = "postgres_default",
        aws_conn_id: str | None = "aws_default",
        database: str | None = None,
        if_exists: str = "fail",
        keep_previous: bool = True,
        allow_partial: bool | str = False,
        single_transaction: bool | str = True,
        jobs: int | str = 2,
        tables: Sequence[str] | str | None = None,
        schemas: Sequence[str] | str | None = None,
        exclude_tables: Sequence[str] | str | None = None,
        schema_only: bool = False,
        data_only: bool = False,
        create_database: bool = True,
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
        allow_unsafe_psql: bool = False,
        thaw: str | None = None,
        thaw_days: int | str = 3,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        s3_extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.backup = backup
        self.postgres_conn_id = postgres_conn_id
        self.aws_conn_id = aws_conn_id
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
        self.s3_extra_args = s3_extra_args

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Restore the backup and return the facts."""
        with self._failing_for_good():
            database = arguments.as_database(self.database, otherwise="the connection's own")
            client, _ = connections.s3_client(self.aws_conn_id, self.s3_extra_args)
            request = RestoreRequest(
                backup=resolve(client, self.backup, self.log),
                target=connections.postgres_parameters(self.postgres_conn_id, database),
                is_target_named=database is not None,
                if_exists=cast("IfExists", self.if_exists),
                keep_previous=self.keep_previous,
                allow_partial=arguments.as_bool(self.allow_partial, "allow_partial"),
                single_transaction=arguments.as_bool(self.single_transaction, "single_transaction"),
                jobs=arguments.as_int(self.jobs, "jobs"),
                create_database=self.create_database,
                wanted=Selection(
                    tables=arguments.as_list(self.tables, "tables"),
                    schemas=arguments.as_list(self.schemas, "schemas"),
                    exclude_tables=arguments.as_list(self.exclude_tables, "exclude_tables"),
                    schema_only=self.schema_only,
                    data_only=self.data_only,
                ),
                pg_restore_options=arguments.as_list(self.pg_restore_options, "pg_restore_options"),
                no_owner=arguments.as_bool(self.no_owner, "no_owner"),
                no_privileges=arguments.as_bool(self.no_privileges, "no_privileges"),
                restore_globals=arguments.as_bool(self.restore_globals, "restore_globals"),
                managed_service=arguments.as_bool(self.managed_service, "managed_service"),
                pre_restore_sql=arguments.as_commands(self.pre_restore_sql, "pre_restore_sql"),
                pre_data_sql=arguments.as_commands(self.pre_data_sql, "pre_data_sql"),
                post_restore_sql=arguments.as_commands(self.post_restore_sql, "post_restore_sql"),
                spool_dir=self.spool_dir or None,
                client_path=connections.client_path(),
                identities=connections.age_identities(self.age_identity_conn_id),
                allow_unsafe_psql=self.allow_unsafe_psql,
            )
            if self.thaw:
                self._wait_for_thaw(self.thaw, client, request.backup)
            result = restore(request, client, cancel=self._cancel, log=self.log)
        return self._report(context, result.facts)

    def go_on(self, context: Mapping[str, Any], event: Any, backup: str) -> dict[str, Any]:
        """Look again whether S3 gives everything out, and restore.

        :param backup: that was asked for, whichever is the latest by now.
        """
        self.backup = backup
        return self.execute(context)

    def _wait_for_thaw(self, tier: str, client: S3Client, backup: str) -> None:
        days = arguments.as_int(self.thaw_days, "thaw_days")
        while ask_for(client, backup, tier=tier, days=days, cancel=self._cancel, log=self.log):
            if self.deferrable:
                self.defer(trigger=TimeDeltaTrigger(THAW_INTERVAL), method_name="go_on", kwargs={"backup": backup})
            if self._cancel.wait(THAW_INTERVAL.total_seconds()):
                raise Cancelled("stopped while waiting for S3 to give out what is archived")
