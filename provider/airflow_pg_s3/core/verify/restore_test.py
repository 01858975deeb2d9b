"""The restore test: a backup restored into a scratch database, compared with its manifest, and checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.postgres.archive.requirements import requirements_of
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.reporting import Log, begin_stage, some_of
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import StoredManifest
from airflow_pg_s3.core.repository.thaw import refuse_archived
from airflow_pg_s3.core.repository.verification_record import Difference
from airflow_pg_s3.core.restore.backup_source import BackupSource, open_backup
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.restore import RestoreResult, restore_from
from airflow_pg_s3.core.verify.comparison.compare import RestoredDatabase, compare
from airflow_pg_s3.core.verify.findings import Findings
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.verify.scratch_database import ScratchDatabase
from airflow_pg_s3.core.verify.throwaway_server import throwaway_server
from airflow_pg_s3.core.verify.user_checks import Checked, run_checks
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_SHOWN = 10


def run_restore_test(
    request: VerifyRequest,
    stored: StoredManifest,
    client: S3Client,
    findings: Findings,
    *,
    cancel: threading.Event,
    log: Log,
) -> None:
    """Restore, compare and check; nothing is left but the record in `findings`.

    :param stored: the manifest that `request.backup` names.
    :raises PgS3Error: the test could not be completed.
    :raises psycopg.Error: the server failed.
    """
    manifest = stored.manifest
    stop = threading.Event()
    refuse_archived(client, request.backup, cancel=cancel)
    with (
        Workspace(request.spool_dir) as workspace,
        # Opened before a server is started, as an identity may be missing.
        open_backup(
            stored,
            client,
            request.backup,
            workspace,
            identities=request.identities,
            jobs=request.jobs,
            stop=stop,
        ) as archive,
        _scratch_database(request, manifest, cancel=cancel, log=log) as scratch,
    ):
        _note_server(scratch, request, findings)
        tools = client_versions.for_restore(
            dumped_by=manifest.dump.pg_dump_version, target_version=scratch.version_num, search=request.client_path
        )
        findings.pg_restore_version = tools.version
        with_roles = _prepare_server(archive, scratch, tools, request, findings)
        restored = RestoredDatabase(params=scratch.params, tools=tools, with_roles=with_roles)
        context = RestoreContext(
            request=_restore_request(request, restored), workspace=workspace, cancel=cancel, stop=stop, log=log
        )
        result = restore_from(BackupSource(archive, context), context)
        log.info("%s", result.sentence)
        _note_restore(result, findings)
        began = time.monotonic()
        begin_stage(log, "Compare")
        comparison = compare(
            archive, restored, jobs=request.jobs, locate=request.locate_differences, cancel=cancel, log=log
        )
        findings.compare_seconds = round(time.monotonic() - began, 3)
        findings.tables += comparison.tables
        findings.differences += comparison.differences
        findings.warnings += comparison.warnings
        _note_checks(run_checks(request.checks, scratch.params, cancel=cancel, log=log), findings)


@contextmanager
def _scratch_database(
    request: VerifyRequest, manifest: Manifest, *, cancel: threading.Event, log: Log
) -> Iterator[ScratchDatabase]:
    with ExitStack() as stack:
        server = request.server or stack.enter_context(
            throwaway_server(
                manifest.server.version_num // 10000,
                raw_bytes=manifest.raw_bytes,
                connections=2 * request.jobs + 10,
                spool_dir=request.spool_dir,
                search=request.client_path,
                cancel=cancel,
                log=log,
            )
        )
        yield stack.enter_context(
            ScratchDatabase(
                server,
                manifest.database,
                manifest.server,
                is_throwaway=request.server is None,
                cancel=cancel,
                log=log,
            )
        )


def _restore_request(request: VerifyRequest, scratch: RestoredDatabase) -> RestoreRequest:
    return RestoreRequest(
        backup=request.backup,
        target=scratch.params,
        # With one job, pg_restore does not fill a table page by page, so that rows would be in another order.
        jobs=max(request.jobs, 2),
        create_database=False,
        pre_restore_sql=request.pre_restore_sql,
        pg_restore_options=[] if scratch.with_roles else ["--no-owner", "--no-privileges", "--no-tablespaces"],
        client_path=request.client_path,
    )


def _note_restore(restored: RestoreResult, findings: Findings) -> None:
    findings.restore_seconds = restored.duration_seconds
    # The comparison reports extensions; and nobody uses the subscriptions of a scratch database.
    about = ("extension ", "subscription ")
    findings.warnings += [text for text in restored.warnings if not text.startswith(about)]


def _note_checks(checks: Sequence[Checked], findings: Findings) -> None:
    """Record the checks; a mistaken one is no difference, as it says nothing of the backup.

    :raises InputError: checks are mistaken; the message names them.
    """
    findings.checks += [check.result for check in checks]
    findings.differences += [
        Difference(kind="check", name=check.result.sql, detail=check.result.detail)
        for check in checks
        if not check.result.passed and not check.is_mistaken
    ]
    mistaken = [f"{check.result.sql}: {check.result.detail}" for check in checks if check.is_mistaken]
    if mistaken:
        raise InputError(
            "a check must return one boolean, such as select count(*) > 0 from orders: " + "; ".join(mistaken)
        )


def _note_server(scratch: ScratchDatabase, request: VerifyRequest, findings: Findings) -> None:
    findings.server_version = scratch.version
    if request.server is not None:
        findings.where = scratch.params.endpoint
        return
    findings.where = f"throwaway PostgreSQL {scratch.version} on the worker"
    findings.missing_locale = scratch.missing_locale
    if scratch.missing_locale is not None:
        findings.warnings.append(
            f"restored with the locale C, as the worker's PostgreSQL does not know the source's "
            f"{scratch.missing_locale}: content is compared as usual, but sort orders were not tested"
        )


def _prepare_server(
    archive: ArchiveFolder,
    scratch: ScratchDatabase,
    tools: ClientTools,
    request: VerifyRequest,
    findings: Findings,
) -> bool:
    """Create roles and tablespaces on a throwaway server; return True if the backup's can be restored."""
    needs = requirements_of(archive.folder, archive.toc, archive.toc.entries, tools=tools)
    roles, tablespaces = scratch.lacking_roles(needs.roles), scratch.lacking_tablespaces(needs.tablespaces)
    if request.server is None:
        scratch.create_roles(roles)
        scratch.create_tablespaces(tablespaces)
        return True
    if roles:
        why = f"the server lacks the roles {some_of(roles, _SHOWN)}"
    elif tablespaces:
        why = f"the server lacks the tablespaces {some_of(tablespaces, _SHOWN)}"
    elif not scratch.is_superuser:
        why = f"{scratch.params.keywords.get('user', 'the role')} is no superuser"
    else:
        return True
    findings.warnings.append(f"owners, privileges and tablespaces were neither restored nor compared, as {why}")
    return False
