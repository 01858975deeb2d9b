"""Backups for tests that only look at them: manifests and evidence as they lie on S3, without any data."""

import json
from datetime import datetime, timedelta
from typing import Any

from airflow_pg_s3.core.record import sealed
from airflow_pg_s3.core.repository.backup_id import beginning_at
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.repository.verification_record import Evidence

ID = "20261122T030000Z-5f3a9c"
RESTORED, FAILED = ("verified", "restore"), ("failed", "restore")
CHECKED, UNSURE = ("verified", "checksum"), ("could not verify", "restore")


def id_at(when: datetime, number: int = 0) -> str:
    return f"{beginning_at(when)}-{number:06x}"


def sealed_json(record: dict[str, Any]) -> bytes:
    """A manifest or evidence as it would have been written, had it said so."""
    return sealed(json.dumps({name: value for name, value in record.items() if name != "sha256"}, indent=1))


def manifest_of(database="shop", backup_id=ID, **facts):
    return Manifest.model_validate(
        {
            "format": 1,
            "backup_id": backup_id,
            "database": database,
            "created_at": "2026-11-22T03:00:00Z",
            "duration_seconds": 1,
            "server": {
                "version": "18.1",
                "version_num": 180001,
                "system_identifier": None,
                "host": "db",
                "encoding": "UTF8",
                "collate": "C",
                "ctype": "C",
                "locale_provider": "libc",
                "locale": None,
                "icu_rules": None,
                "extensions": [],
            },
            "dump": {"pg_dump_version": "18.1", "options": [], "jobs": 2},
            "compression": {"method": "zstd", "level": 1},
            "encryption": None,
            "producer": {"tool": "t", "version": "0"},
            "chunking": {"method": "fastcdc-2020", "average_bytes": 1 << 20},
            "raw_bytes": 4,
            "stored_bytes": 4,
            "new_stored_bytes": 4,
            "chunks": 0,
            "new_chunks": 0,
            "tables": 0,
            "rows": 0,
            "members": {"stored_bytes": 4, "raw_bytes": 4, "sha256": "0" * 64},
            "packs": [{"key": f"{backup_id}/pack-0001.tar.zst", "stored_bytes": 4}],
            "runs": {},
            **facts,
        }
    )


class Shelf:
    """Puts backups into a repository.

    :param repository: its URI.
    """

    def __init__(self, client: Any, repository: str) -> None:
        self._client = client
        self._repository = repository
        self._bucket, _, self._prefix = repository.removeprefix("s3://").partition("/")

    def uri(self, database: str, backup_id: str) -> str:
        return f"{self._repository}/{database}/{backup_id}.json"

    def put(self, name: str, body: bytes = b"x") -> None:
        """Store any object of the repository."""
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=body)

    def put_backup(self, database: str, when: datetime, number: int = 0, **labels: str) -> str:
        """Store a manifest; return the backup's id."""
        backup_id = id_at(when, number)
        manifest = manifest_of(database, backup_id, created_at=when, labels=labels)
        self.put(f"{database}/{backup_id}.json", manifest.to_json())
        return backup_id

    def put_evidence(
        self, database: str, backup_id: str, *verifications: tuple[str, str], at: datetime, of: str | None = None
    ) -> None:
        """Store evidence: outcomes and levels, the newest first, a day between them.

        :param of: the backup whose manifest it speaks of, if it is another.
        """
        stored = read_manifest(self._client, self.uri(database, of or backup_id))
        found = [
            {
                "outcome": outcome,
                "level": level,
                "began_at": at - timedelta(days=number),
                "duration_seconds": 1,
                "producer": {"tool": "test", "version": "0"},
            }
            for number, (outcome, level) in enumerate(verifications)
        ]
        evidence = Evidence.model_validate(
            {
                "format": 1,
                "backup_id": stored.manifest.backup_id,
                "manifest_sha256": stored.sha256,
                "stored_bytes": stored.manifest.stored_bytes,
                "new_stored_bytes": stored.manifest.new_stored_bytes,
                "verifications": found,
            }
        )
        self.put(f"{database}/{backup_id}.verified.json", evidence.to_json())
