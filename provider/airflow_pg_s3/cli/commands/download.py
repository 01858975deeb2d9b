"""Downloads a backup as a folder for pg_restore."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.restore.download import DownloadRequest, download


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Download, and say how to restore from it."""
    identities = tuple(session.connections.identities())
    client, _ = session.connections.s3()
    request = DownloadRequest(
        backup=resolve(client, arguments.backup, session.log),
        folder=Path(arguments.folder),
        jobs=arguments.jobs,
        identities=identities,
    )
    manifest = download(request, client, cancel=session.cancel, log=session.log)
    facts = {
        "uri": request.backup,
        "folder": str(request.folder.absolute()),
        "backup_id": manifest.backup_id,
        "database": manifest.database,
        "raw_bytes": manifest.raw_bytes,
        "tables": manifest.tables,
        "rows": manifest.rows,
        "pg_dump_version": manifest.dump.pg_dump_version,
    }
    session.out.write(facts, [f"pg_restore --jobs={arguments.jobs} --dbname=DATABASE {request.folder}"])
    return ExitCode.DONE
