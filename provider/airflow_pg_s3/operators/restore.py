"""The operator that restores a backup."""

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
from airflow_pg_s3.telemetry.console_link import BACKUP_LINKS, console_url
from airflow_pg_s3.telemetry.lineage import Movement, database_dataset, repository_dataset
from airflow_pg_s3.telemetry.metrics import measure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

THAW_INTERVAL = timedelta(minutes=5)
"""Time between two checks whether S3 has restored archived objects."""


class PgS3RestoreOperator(PgS3Operator):
    """Restore a backup into a PostgreSQL database: in parallel, streaming, with every byte checked.

    :param backup: URI of the backup's manifest, as `PgS3BackupOperator` and `PgS3ListBackupsOperator` return it;
        or ``s3://bucket/prefix/<database>/<name>``, where the name is ``latest``, ``latest-verified``, a time such
        as ``2026-11-20T03:00`` (the newest backup that is not younger) or the unique beginning of an id;
        or URI of another tool's archive: pg_dump's formats custom, tar and plain, or a directory archive packed
        with tar, uncompressed or compressed by gzip or zstd (templated).
    :param postgres_conn_id: Postgres connection of the target (templated).
    :param aws_conn_id: AWS connection; None for the machine's own credentials (templated).
    :param database: database to restore into; None for the connection's schema. A missing database is created with
        the source's encoding and locale. If this is None, and the connection's database has another name than the
        one that was backed up, ``replace`` refuses, and the other modes warn in ``warnings`` (templated).
    :param if_exists: ``fail`` refuses a database that holds anything; ``clean`` first drops what the backup also
        holds, except the schema public and installed extensions; ``replace`` restores into a new database beside
        the existing one and then swaps their names in one transaction (templated).
    :param keep_previous: with ``replace``, keep the old database as ``<name>__before_<6 hex digits>``, for you to
        drop; if False, it is dropped right after the swap.
    :param allow_partial: allow ``replace`` and ``clean`` with a backup that was made with options such as
        ``--exclude-table-data`` or ``--schema=…`` (``left_out_by``): the target loses what these left out
        (templated).
    :param single_transaction: run ``clean`` and ``data_only`` restores in one transaction, so that a failure
        changes nothing. It uses one connection, whatever `jobs` is, and a lock on each object
        (``max_locks_per_transaction``). If False, `jobs` connections restore, and ``clean`` drops first: a failure
        leaves the database neither old nor new (templated).
    :param jobs: number of tables restored at the same time, each over a connection of its own (templated).
    :param tables: restore only these tables, with their indexes, constraints, triggers and so on: patterns such as
        ``public.orders`` or ``audit.*`` (templated).
    :param schemas: restore only these schemas, with everything in them (templated).
    :param exclude_tables: restore all but these tables and what depends on them: patterns as in `tables`. An
        extension's table only loses its rows. ``replace`` also needs `allow_partial` (templated).
    :param schema_only: restore definitions without data.
    :param data_only: restore data into tables that exist and are empty (templated).
    :param create_database: create a database that does not exist; if False, a missing database is an error.
    :param pg_restore_options: further options for pg_restore, one per list item; options that leave out rows or
        objects are refused (templated).
    :param no_owner: make the connection's user the owner of everything, instead of the owners in the source
        (templated).
    :param no_privileges: leave out GRANT and REVOKE (templated).
    :param restore_globals: first create the roles, memberships, settings of roles and tablespaces that the backup
        holds (made with ``include_globals``) and the server lacks; existing ones are not changed (templated).
    :param managed_service: for a user who is not a superuser (RDS, Cloud SQL, Azure): leave out what the server
        does not allow the user to create, with a sentence in ``warnings``. Data is never left out. See
        docs/managed-services.md (templated).
    :param pre_restore_sql: a command, or a list of commands, run in the target in one transaction before anything
        is dropped or restored. Use it for settings that extensions need while their rows are loaded, by ``ALTER
        DATABASE``, as rows are loaded in other sessions (templated).
    :param pre_data_sql: the same, but run after types, functions and tables are created, and before rows, indexes
        and constraints. Use it for ``ALTER FUNCTION … SET search_path = …`` (templated).
    :param post_restore_sql: a command, or a list of commands, run in the restored database in one transaction;
        with ``replace`` before the swap. Use it for masking (templated).
    :param age_identity_conn_id: connection whose password holds the age identity of an encrypted backup
        (templated).
    :param spool_dir: folder for small members, and for archives of other tools that cannot be streamed; the
        system's temporary folder if None (templated).
    :param allow_unsafe_psql: replay another tool's plain dump even with a psql that the dump can make run commands
        on the worker (CVE-2025-8714, CVE-2026-18408).
    :param thaw: if objects of the backup are in an archive storage class (S3 Glacier), request their restore by S3
        in this tier, ``Standard``, ``Bulk`` or ``Expedited``, and wait until they can be read; if None, such a
        backup is refused (templated).
    :param thaw_days: number of days for which S3 keeps the readable copies (templated).
    :param deferrable: wait for S3 in the triggerer instead of in a worker.
    :param s3_extra_args: further arguments of S3 requests, such as those of SSE-C, ``RequestPayer`` or
        ``ExpectedBucketOwner``; each request gets those that it accepts. The connection may have them as well, see
        docs/s3-compatible.md.
    :returns: ``database``, ``backup_id``, ``tables``, ``rows``, ``raw_bytes``, ``duration_seconds``,
        ``previous_database`` (name of the replaced database if it is kept, otherwise None), ``warnings`` (a
        sentence for each difference from the source).
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
        "data_only",
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
    operator_extra_links = BACKUP_LINKS

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
        data_only: bool | str = False,
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
        """Restore, and return the facts about the restore."""
        with self._final_errors() as log:
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
                    data_only=arguments.as_bool(self.data_only, "data_only"),
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
            self.console_url = console_url(client, request.backup)
            if self.thaw:
                self._wait_for_thaw(self.thaw, client, request.backup)
            result = restore(request, client, cancel=self._cancel, log=log)
        self._movement = Movement(
            source=repository_dataset(request.backup),
            target=database_dataset(request.target),
            rows=result.amounts.rows,
            raw_bytes=result.amounts.raw_bytes,
        )
        measure("restore", result.facts)
        return self._report(context, result.facts)

    def go_on(self, context: Mapping[str, Any], event: Any, backup: str) -> dict[str, Any]:
        """Check S3 again, and restore; called by Airflow after a deferral.

        :param backup: URI of the backup that was asked for, whichever is the latest by now.
        """
        self.backup = backup
        return self.execute(context)

    def _wait_for_thaw(self, tier: str, client: S3Client, backup: str) -> None:
        days = arguments.as_int(self.thaw_days, "thaw_days")
        while ask_for(client, backup, tier=tier, days=days, cancel=self._cancel, log=self.log):
            if self.deferrable:
                self.defer(trigger=TimeDeltaTrigger(THAW_INTERVAL), method_name="go_on", kwargs={"backup": backup})
            if self._cancel.wait(THAW_INTERVAL.total_seconds()):
                raise Cancelled("stopped while waiting for S3 to restore archived objects")
