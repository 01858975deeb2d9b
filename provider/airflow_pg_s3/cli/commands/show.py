"""Shows what a backup holds, and whether it is verified."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.documents import document
from airflow_pg_s3.core.reporting import aligned, duration, human, human_age, plural
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.repository.backup_table import TableSize, table_sizes
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import read_manifest, read_members
from airflow_pg_s3.core.repository.verification_record import Evidence, Verification, read_evidence
from airflow_pg_s3.core.s3.requests import parse_uri


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Show a backup."""
    client, _ = session.connections.s3()
    uri = resolve(client, arguments.backup, session.log)
    stored = read_manifest(client, uri)
    bucket, _ = parse_uri(uri, parameter="backup")
    evidence = read_evidence(client, bucket, stored)
    tables = table_sizes(stored.manifest.backup_id, read_members(client, bucket, stored))
    session.out.write(
        _facts(uri, stored.manifest, evidence, tables), _lines(uri, stored.manifest, evidence, tables)
    )
    return ExitCode.DONE


def _facts(uri: str, manifest: Manifest, evidence: Evidence | None, tables: Sequence[TableSize]) -> dict[str, Any]:
    verifications = evidence.verifications if evidence else []
    return {
        "uri": uri,
        **manifest.model_dump(mode="json", by_alias=True, exclude={"members", "packs", "runs"}),
        "verified": evidence is not None and evidence.is_verified,
        "verifications": [verification.model_dump(mode="json", by_alias=True) for verification in verifications],
        "contents": [table._asdict() for table in tables],
    }


def _lines(uri: str, manifest: Manifest, evidence: Evidence | None, tables: Sequence[TableSize]) -> Iterator[str]:
    rows = [(name, text) for name, text in _about(uri, manifest, evidence) if text]
    width = max(len(name) for name, _ in rows)
    yield from (f"{name.ljust(width)}  {text}" for name, text in rows)
    yield ""
    yield from aligned(
        ("table", "rows", "raw size", "new"),
        [
            (
                f"{table.schema}.{table.name}",
                f"{table.rows:,}",
                human(table.raw_bytes),
                human(table.new_raw_bytes),
            )
            for table in tables
        ],
        numbers=("rows", "raw size", "new"),
    )


def _about(uri: str, manifest: Manifest, evidence: Evidence | None) -> Iterator[tuple[str, str]]:
    server, dump, encryption = manifest.server, manifest.dump, manifest.encryption
    age = human_age((datetime.now(UTC) - manifest.created_at).total_seconds())
    yield "backup", f"{manifest.backup_id} of {manifest.database}"
    yield "uri", uri
    yield (
        "made",
        f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC, {age} ago, in {duration(manifest.duration_seconds)}",
    )
    yield "server", f"PostgreSQL {server.version} at {server.host}, {server.encoding}, {server.collate}"
    yield "extensions", ", ".join(f"{one.name} {one.version}" for one in server.extensions)
    yield "pg_dump", " ".join([f"{dump.pg_dump_version}, {plural(dump.jobs, 'job')}", *dump.options])
    yield "left out by", ", ".join(dump.left_out_by)
    ratio = manifest.raw_bytes / max(manifest.stored_bytes, 1)
    yield "size", f"{human(manifest.raw_bytes)}, stored as {human(manifest.stored_bytes)} (1 : {ratio:.1f})"
    new = human(manifest.new_stored_bytes)
    yield "new", f"{new} stored, {manifest.new_chunks:,} of {manifest.chunks:,} chunks"
    yield "tables", f"{manifest.tables:,}, {plural(manifest.rows, 'row')}"
    yield "encryption", f"age, for {', '.join(encryption.recipients)}" if encryption else "none"
    yield "labels", ", ".join(f"{name}={value}" for name, value in manifest.labels.items())
    task = ".".join(filter(None, (manifest.producer.dag_id, manifest.producer.task_id)))
    program = f"{manifest.producer.tool} {manifest.producer.version}"
    yield "made by", f"{program}, task {task}" if task else program
    yield "verified", "yes" if evidence and evidence.is_verified else "no"
    for verification in evidence.verifications if evidence else []:
        yield "evidence", _evidence(verification)
    yield "restore", f"pg-s3 restore {uri} POSTGRES"
    folder, _, name = uri.removesuffix(".json").rpartition("/")
    yield "by hand", f"{document('recovery.md')}, with FOLDER={folder} BACKUP={name}"


def _evidence(found: Verification) -> str:
    parts = [f"{found.began_at:%Y-%m-%d %H:%M} {found.outcome} by {found.level}"]
    if found.where:
        parts.append(f"on {found.where}")
    if found.restore_seconds is not None:
        parts.append(f"restored in {duration(found.restore_seconds)}")
    if found.outcome == "verified":
        parts.append(f"{plural(found.tables_matching, 'table')}, {plural(found.rows, 'row')}")
    parts += [f"{one.kind} {one.name}: {one.detail}" for one in found.differences[:3]]
    return "; ".join(filter(None, [", ".join(parts), found.reason]))
