"""Backups that were listed: as rows for programs, as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow_pg_s3.core.reporting import aligned, duration, human, human_age
from airflow_pg_s3.core.repository.catalog import Entry
from airflow_pg_s3.core.repository.listing import BackupRef
from airflow_pg_s3.core.repository.members import Member


class TableSize(NamedTuple):
    """How much a backup holds of a table.

    :param raw_bytes: of its rows, as pg_dump wrote them.
    :param new_raw_bytes: those of them that this backup has stored itself; it shares the others with earlier ones.
    """

    schema: str
    name: str
    rows: int
    raw_bytes: int
    new_raw_bytes: int
    columns: list[str]


def table_sizes(backup_id: str, members: Iterable[Member]) -> list[TableSize]:
    """Say how much a backup holds of each table, the largest first; of partitions as what they are loaded into."""
    found: dict[tuple[str, str], TableSize] = {}
    for member in members:
        if (table := member.table) is not None:
            name = (table.schema_name, table.name)
            before = found.get(name, TableSize(*name, 0, 0, 0, table.columns))
            found[name] = before._replace(
                rows=before.rows + table.rows,
                raw_bytes=before.raw_bytes + member.raw_bytes,
                new_raw_bytes=before.new_raw_bytes + _new_raw_bytes(backup_id, member),
            )
    return sorted(found.values(), key=lambda size: (-size.raw_bytes, size.schema, size.name))


def _new_raw_bytes(backup_id: str, member: Member) -> int:
    if member.packed:
        return member.raw_bytes
    return sum(chunk.raw_bytes for chunk in member.chunks if chunk.key.startswith(f"{backup_id}/"))


def backup_row(entry: Entry) -> dict[str, Any]:
    """Return what is known of a backup, in plain values: the keys are those of `PgS3ListBackupsOperator`."""
    verdict = entry.newest_verdict
    return {
        "uri": entry.ref.uri,
        "key": entry.ref.key,
        "database": entry.database,
        "created_at": entry.created_at.isoformat(),
        "size": entry.stored_bytes,
        "stored_bytes": entry.stored_bytes,
        "verified": entry.is_verified,
        "verification": verdict
        and {"outcome": verdict.outcome, "level": verdict.level, "at": verdict.at.isoformat()},
        "backup_id": entry.backup_id,
        "labels": dict(entry.labels),
        "new_stored_bytes": entry.new_stored_bytes,
        "raw_bytes": entry.raw_bytes,
        "tables": entry.tables,
        "rows": entry.rows,
        "left_out_by": list(entry.left_out_by),
        "duration_seconds": entry.duration_seconds,
        "encrypted": entry.is_encrypted,
    }


def archive_row(ref: BackupRef) -> dict[str, Any]:
    """Return the same of another tool's archive, of which little is known."""
    return {
        "uri": ref.uri,
        "key": ref.key,
        "database": None,
        "created_at": ref.created_at.isoformat(),
        "size": ref.object_bytes,
        "stored_bytes": ref.object_bytes,
        "verified": False,
        "verification": None,
    }


def backup_table(entries: Sequence[Entry], now: datetime) -> list[str]:
    """Lay backups out in lines."""
    return aligned(
        (
            *("database", "id", "made (UTC)", "age", "took", "size", "new", "raw size", "tables", "rows"),
            *("encrypted", "verification", "labels"),
        ),
        [
            (
                entry.database,
                entry.backup_id,
                f"{entry.created_at.astimezone(UTC):%Y-%m-%d %H:%M}",
                human_age((now - entry.created_at).total_seconds()),
                duration(entry.duration_seconds),
                human(entry.stored_bytes),
                human(entry.new_stored_bytes),
                human(entry.raw_bytes),
                f"{entry.tables:,}",
                f"{entry.rows:,}",
                "yes" if entry.is_encrypted else "no",
                entry.state(now),
                ", ".join(_marks(entry)),
            )
            for entry in entries
        ],
        numbers=("age", "took", "size", "new", "raw size", "tables", "rows"),
    )


def _marks(entry: Entry) -> list[str]:
    return ["partial"] * bool(entry.left_out_by) + [f"{name}={value}" for name, value in entry.labels.items()]


def listing(entries: Sequence[Entry], now: datetime) -> list[str]:
    """Lay backups out like `backup_table`, with what their URIs are made of above them, and their size below."""
    header, *rows = backup_table(entries, now)
    lines = [header]
    of_the_line_before = ""
    for entry, row in zip(entries, rows, strict=True):
        repository = entry.ref.uri.rsplit("/", 2)[0]
        if repository != of_the_line_before:
            lines.append(f"{repository}/<database>/<id>.json:")
        lines.append(row)
        of_the_line_before = repository
    return [*lines, f"these have stored {human(sum(entry.new_stored_bytes for entry in entries))}"]


def archive_table(refs: Sequence[BackupRef], now: datetime) -> list[str]:
    """Lay other tools' archives out in lines."""
    return aligned(
        ("age", "size", "uri"),
        [(human_age((now - ref.created_at).total_seconds()), human(ref.object_bytes), ref.uri) for ref in refs],
        numbers=("age", "size"),
    )
