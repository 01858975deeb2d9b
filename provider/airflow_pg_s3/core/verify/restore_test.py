"""The restore test: a backup restored into a scratch database, compared with its manifest, and checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from airflow_pg_s3.core.postgres import client_tools
from airflow_pg_s3.core.postgres.archive.requirements import requirements_of
from airflow_pg_s3.core.postgres.archive.toc import TOC
from airflow_pg_s3.core.postgres.client_tools import ClientTools
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.repository import StoredManifest
from airflow_pg_s3.core.repository.verification_record import Difference
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.restore import restore
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.verify.comparison.compare import compare
from airflow_pg_s3.core.verify.findings import Findings
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.verify.scratch_database import ScratchDatabase
from airflow_pg_s3.core.verify.throwaway_server import throwaway_server
from airflow_pg_s3.core.verify.user_checks import run_checks
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_SHOWN = 10


def run_restore_test(
    request: VerifyRequest,
    stored: StoredManifest,
    client: S3Client,
    bucket: str,
    findings: Findings,
    *,
    cancel: threading.Event,
    log: Log,
) -> None:
    """Restore, compare and check; nothing of it stays but what is noted in `findings`.

    :param stored: the manifest that `request.backup` names.
    :raises PgS3Error: it did not come to its end.
    :raises psycopg.Error: the server failed.
    """
    manifest, base, _ = stored
    # An identity that is missing is said before a server is started.
    decoder = Decoder(manifest.encryption, request.identities)
    stop = threading.Event()
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
        scratch = stack.enter_context(
            ScratchDatabase(
                server,
                manifest.database,
                manifest.server,
                is_throwaway=request.server is None,
                cancel=cancel,
                log=log,
            )
        )
        _note_server(scratch, request, findings)
        tools = client_tools.for_restore(
            dumped_by=manifest.dump.pg_dump_version, target_version=scratch.version_num, search=request.client_path
        )
        findings.pg_restore_version = tools.version
        workspace = stack.enter_context(Workspace(request.spool_dir))
        downloader = stack.enter_context(Downloader(client, bucket, cancel=stop, threads=request.jobs + 2))
        archive = ArchiveFolder(manifest, base, downloader, decoder, workspace)
        archive.fetch([TOC])
        with_roles = _prepare_server(archive, scratch, tools, request, findings)
        began = time.monotonic()
        restore_request = RestoreRequest(
            backup=request.backup,
            target=scratch.params,
            # With one job, pg_restore does not fill a table page by page: rows would come to lie in another order.
            jobs=max(request.jobs, 2),
            create_database=False,
            pre_restore_sql=request.pre_restore_sql,
            pg_restore_options=[] if with_roles else ["--no-owner", "--no-privileges", "--no-tablespaces"],
            spool_dir=request.spool_dir,
            client_path=request.client_path,
            identities=request.identities,
        )
        restored = restore(restore_request, client, cancel=cancel, log=log, stored=stored)
        # Of extensions, the comparison tells; and nobody uses the subscriptions.
        about = ("extension ", "subscription ")
        findings.warnings += [text for text in restored.warnings if not text.startswith(about)]
        findings.restore_seconds = round(time.monotonic() - began, 3)
        began = time.monotonic()
        comparison = compare(
            archive,
            scratch.params,
            tools=tools,
            jobs=request.jobs,
            with_roles=with_roles,
            locate=request.locate_differences,
            cancel=cancel,
            log=log,
        )
        findings.compare_seconds = round(time.monotonic() - began, 3)
        findings.tables += comparison.tables
        findings.differences += comparison.differences
        findings.warnings += comparison.warnings
        findings.checks += run_checks(request.checks, scratch.params, cancel=cancel, log=log)
        findings.differences += [
            Difference(kind="check", name=check.sql, detail=check.detail)
            for check in findings.checks
            if not check.passed
        ]


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
            f"{scratch.missing_locale}: content is compared as ever, but orders that depend on it were not tried"
        )


def _prepare_server(
    archive: ArchiveFolder,
    scratch: ScratchDatabase,
    tools: ClientTools,
    request: VerifyRequest,
    findings: Findings,
) -> bool:
    """Make sure of roles and tablespaces; say whether owners, privileges and tablespaces can be restored."""
    needs = requirements_of(archive.folder, archive.toc, archive.toc.entries, tools=tools)
    roles, tablespaces = scratch.lacking_roles(needs.roles), scratch.lacking_tablespaces(needs.tablespaces)
    if request.server is None:
        scratch.create_roles(roles)
        scratch.create_tablespaces(tablespaces)
        return True
    if roles:
        why = f"the server lacks the roles {_shown(roles)}"
    elif tablespaces:
        why = f"the server lacks the tablespaces {_shown(tablespaces)}"
    elif not scratch.is_superuser:
        why = f"{scratch.params.keywords.get('user', 'the role')} is no superuser"
    else:
        return True
    findings.warnings.append(f"owners, privileges and tablespaces were neither restored nor compared, as {why}")
    return False


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
