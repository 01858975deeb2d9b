"""Months of backups that nobody has made: manifests, members and evidence as they lie on S3, without any data."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_pg_s3.core.repository.manifest import Manifest, Table
from airflow_pg_s3.core.repository.members import Chunk, Chunks, Member, write_members
from airflow_pg_s3.core.repository.repository import Repository, read_manifest
from airflow_pg_s3.core.repository.verification_record import Evidence

TABLES = ("orders", "order_items", "events", "customers", "invoices", "payments", "products", "sessions")
PRODUCER = {"tool": "airflow-provider-pg-s3", "version": "0.1.0", "dag_id": "pg_s3_backup", "task_id": "backup"}
VERIFIER = {"tool": "airflow-provider-pg-s3", "version": "0.1.0", "dag_id": "pg_s3_restore_verification"}
CHUNK_BYTES = 1 << 20
_LARGEST = 64 << 20
EARLIER = "20260101T030000Z-000000"


@dataclass(frozen=True, kw_only=True)
class Life:
    """A database, and the backups of it.

    :param raw_bytes: of the newest backup.
    :param backups: how many, a day apart.
    :param age: of the newest.
    :param outcomes: of the verifications of the newest, of the one before, and so on; None: there is none.
    """

    database: str
    raw_bytes: int
    backups: int
    age: timedelta = timedelta(hours=7)
    outcomes: Sequence[str | None] = ("verified",)
    tables: Sequence[str] = TABLES
    labels: dict[str, str] = field(default_factory=dict)


def put(repository: Repository, life: Life, *, seed: int = 1) -> None:
    """Store the backups of a life, the newest first."""
    chance = random.Random(f"{seed} {life.database}")
    newest = datetime.now(UTC).replace(microsecond=0) - life.age
    for number in range(life.backups):
        share = (1 - 0.45 * number / max(life.backups, 60)) * chance.uniform(0.99, 1.01)
        when = newest - timedelta(days=number) + timedelta(seconds=chance.randrange(90))
        labels = life.labels if number == 0 else {}
        if number == 17:
            labels = {"hold": "audit 2026"}
        manifest = _put_backup(repository, life, when, int(life.raw_bytes * share), labels, chance)
        if number < len(life.outcomes) and (outcome := life.outcomes[number]):
            _put_evidence(repository, manifest, outcome, chance)


def _put_backup(
    repository: Repository,
    life: Life,
    when: datetime,
    raw_bytes: int,
    labels: dict[str, str],
    chance: random.Random,
) -> Manifest:
    backup_id = f"{when:%Y%m%dT%H%M%SZ}-{chance.randrange(1 << 24):06x}"
    members = list(_members(backup_id, life.tables, raw_bytes))
    data, record = write_members(members)
    rows = sum(member.table.rows for member in members if member.table)
    stored_bytes = int(raw_bytes / chance.uniform(4.1, 4.3))
    is_full = chance.random() < 1 / 30
    new_bytes = stored_bytes if is_full else int(stored_bytes * chance.uniform(0.015, 0.05))
    chunks = max(raw_bytes // CHUNK_BYTES, 1)
    manifest = Manifest.model_validate(
        {
            "format": 1,
            "backup_id": backup_id,
            "database": life.database,
            "created_at": when,
            "duration_seconds": 4 + raw_bytes / 70e6 * chance.uniform(0.9, 1.15) * (1.8 if is_full else 1),
            "labels": labels,
            "server": _SERVER,
            "dump": {"pg_dump_version": "18.6", "options": [], "jobs": 4, "has_globals": True},
            "compression": {"method": "zstd", "level": 3},
            "encryption": None,
            "producer": PRODUCER,
            "chunking": {"method": "fastcdc-2020", "average_bytes": CHUNK_BYTES},
            "raw_bytes": raw_bytes,
            "stored_bytes": stored_bytes,
            "new_stored_bytes": new_bytes,
            "chunks": chunks,
            "new_chunks": min(chunks, max(1, chunks * new_bytes // max(stored_bytes, 1))),
            "tables": len(life.tables),
            "rows": rows,
            "members": record,
            "packs": [{"key": _pack(backup_id), "stored_bytes": 4}],
            "runs": {EARLIER: [[1, 1]], backup_id: [[1, 1]]},
        }
    )
    key = repository.manifest_key(life.database, backup_id)
    base = repository.base(life.database)
    repository.client.put_object(Bucket=repository.bucket, Key=base + manifest.members_key, Body=data)
    repository.client.put_object(Bucket=repository.bucket, Key=key, Body=manifest.to_json())
    return manifest


_SERVER: dict[str, Any] = {
    "version": "18.6",
    "version_num": 180006,
    "system_identifier": None,
    "host": "db-1.internal",
    "encoding": "UTF8",
    "collate": "en_US.UTF-8",
    "ctype": "en_US.UTF-8",
    "locale_provider": "libc",
    "locale": None,
    "icu_rules": None,
    "extensions": [{"name": "pg_trgm", "version": "1.6"}, {"name": "postgis", "version": "3.6.0"}],
}


def _pack(backup_id: str) -> str:
    return f"{backup_id}/pack-0001.tar.zst"


def _members(backup_id: str, tables: Sequence[str], raw_bytes: int) -> Iterator[Member]:
    yield Member(name="toc.dat", raw_bytes=50_000, pack=_pack(backup_id), sha256="0" * 64)
    left = raw_bytes
    for number, name in enumerate(tables):
        size = max(int(left * 0.5), 100)
        left -= size
        chunks = Chunks()
        # Every 25th chunk of each table is new.
        for offset, start in enumerate(range(0, size, _LARGEST)):
            key = f"{backup_id if offset % 25 == number % 25 else EARLIER}/000001.zst"
            chunks.append(Chunk(bytes(32), min(_LARGEST, size - start), key, offset * 1000, 1000))
        schema, _, table = name.rpartition(".")
        yield Member(
            name=f"{3000 + number}.dat",
            raw_bytes=size,
            table=Table(
                schema=schema or "shop",
                name=table,
                columns=["id"],
                rows=size // (90 + 37 * number),
            ),
            chunks=chunks,
        )


def _put_evidence(repository: Repository, manifest: Manifest, outcome: str, chance: random.Random) -> None:
    stored = read_manifest(
        repository.client, repository.uri(repository.manifest_key(manifest.database, manifest.backup_id))
    )
    seconds = manifest.raw_bytes / 55e6 * chance.uniform(0.9, 1.1)
    verification: dict[str, Any] = {
        "outcome": outcome,
        "level": "restore",
        "began_at": manifest.created_at + timedelta(hours=3),
        "duration_seconds": seconds * 1.6,
        "producer": VERIFIER,
    }
    if outcome != "could not verify":
        verification |= {
            "restore_seconds": seconds,
            "compare_seconds": seconds * 0.6,
            "server_version": "18.6",
            "where": "a throwaway server",
            "tables_matching": manifest.tables,
            "rows": manifest.rows,
        }
    else:
        verification["reason"] = "the throwaway server could not start: no space is left in /var/tmp"
    if outcome == "failed":
        verification["differences"] = [
            {
                "kind": "table",
                "name": "shop.payments",
                "detail": "1,204,331 rows were backed up, and 1,204,330 are there after the restore",
            }
        ]
    evidence = Evidence.model_validate(
        {
            "format": 1,
            "backup_id": manifest.backup_id,
            "manifest_sha256": stored.sha256,
            "stored_bytes": manifest.stored_bytes,
            "new_stored_bytes": manifest.new_stored_bytes,
            "verifications": [verification],
        }
    )
    base = repository.base(manifest.database)
    repository.client.put_object(
        Bucket=repository.bucket, Key=f"{base}{manifest.backup_id}.verified.json", Body=evidence.to_json()
    )
