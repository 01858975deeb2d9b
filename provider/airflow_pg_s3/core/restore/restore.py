"""The restore of a backup of ours, or of another tool's archive, into a database that exists or is created."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_pg_s3.core.postgres.errors import translate_errors
from airflow_pg_s3.core.reporting import Log, begin_stage, end_stage, human, plural, say_result
from airflow_pg_s3.core.repository.repository import is_external
from airflow_pg_s3.core.restore.backup_source import open_backup_source
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.external.source import open_external_source
from airflow_pg_s3.core.restore.replace_target import open_target
from airflow_pg_s3.core.restore.request import RestoreRequest, check_request
from airflow_pg_s3.core.restore.source import Amounts, Source
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, kw_only=True)
class RestoreResult:
    """A finished restore.

    :param uri: of the manifest, or of the archive.
    :param name: id of the backup, or the last part of the archive's key.
    :param warnings: a sentence for each difference from the source.
    :param previous_database: name of the database that was replaced, if it is kept.
    """

    uri: str
    name: str
    warnings: list[str]
    database: str
    previous_database: str | None
    amounts: Amounts
    duration_seconds: float

    @property
    def facts(self) -> dict[str, Any]:
        """What people and programs want to know of it, in plain values."""
        return {
            "uri": self.uri,
            "database": self.database,
            "backup_id": self.name,
            "tables": self.amounts.tables,
            "rows": self.amounts.rows,
            "raw_bytes": self.amounts.raw_bytes,
            "duration_seconds": self.duration_seconds,
            "previous_database": self.previous_database,
            "warnings": self.warnings,
        }

    @property
    def sentence(self) -> str:
        """The outcome in one line."""
        tables, rows, counted = self.amounts.tables, self.amounts.rows, human(self.amounts.raw_bytes)
        if tables is not None and rows is not None:
            counted = f"{plural(tables, 'table')}, {plural(rows, 'row')}, {counted}"
        warned = f"; with {plural(len(self.warnings), 'warning')}, see above" if self.warnings else ""
        return f"restored {self.name} into {self.database}: {counted} in {self.duration_seconds:.1f} s{warned}"


@translate_errors
def restore(request: RestoreRequest, client: S3Client, *, cancel: threading.Event, log: Log) -> RestoreResult:
    """Restore a backup into a database. Each member's digest is checked before PostgreSQL gets the member's end.

    :param client: boto3 S3 client.
    :param cancel: set from any thread to stop the restore.
    :raises InputError: the request cannot work; nothing was touched.
    :raises DataConflict: the target holds something; nothing was touched.
    :raises IntegrityError: what S3 holds is not what was backed up, or ends too early.
    :raises ClientProgramError: pg_restore or psql failed.
    :raises StorageError: S3 failed.
    :raises ServerError: PostgreSQL failed.
    :raises Cancelled: the restore was told to stop.
    """
    check_request(request)
    with Workspace(request.spool_dir) as workspace:
        context = RestoreContext(request=request, workspace=workspace, cancel=cancel, log=log)
        with _open_source(client, context) as source:
            result = restore_from(source, context)
    say_result(log, "%s", result.sentence)
    return result


def restore_from(source: Source, context: RestoreContext) -> RestoreResult:
    """Restore from an opened source, and leave it to the caller to say so; raises as `restore`."""
    began, log = time.monotonic(), context.log
    begin_stage(log, "Preflight")
    with open_target(context) as target:
        plan = source.plan(target)
        log.info(
            "restoring %s into %s (PostgreSQL %d) with %s",
            source.description,
            target.params.endpoint,
            target.version // 10000,
            plan.program,
        )
        # This, too, checks, and then creates what the restore needs.
        plan.prepare()
        begin_stage(log, "Restore")
        amounts = plan.fill()
        begin_stage(log, "Commit")
        log.info("everything is loaded into %s", target.params.database)
        target.promote()
    end_stage(log)
    return RestoreResult(
        uri=context.request.backup,
        name=source.name,
        warnings=[*context.warnings, *target.warnings],
        database=context.request.target.database,
        previous_database=target.previous,
        amounts=amounts,
        duration_seconds=round(time.monotonic() - began, 3),
    )


def _open_source(client: S3Client, context: RestoreContext) -> AbstractContextManager[Source]:
    if is_external(context.request.backup):
        return open_external_source(client, context)
    return open_backup_source(client, context)
