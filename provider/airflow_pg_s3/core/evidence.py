"""The evidence: what verifications of a backup have found, beside its manifest. docs/format.md describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import AwareDatetime, Field, ValidationError

from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.manifest import BackupId, Count, Producer, Record, Sha256
from airflow_pg_s3.core.repository import EVIDENCE_SUFFIX, MANIFEST_SUFFIX, StoredManifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEPT = 20
"""How many verifications of a backup are remembered."""
_LIMIT_BYTES = 1 << 28

Outcome = Literal["verified", "failed", "could not verify"]
Level = Literal["restore", "checksum"]


class TableResult(Record):
    """What was found of one table.

    :param rows_found: None if it could not be read.
    :param first_difference: number, from 1, of the first row that differs in the order of the dump; None if it was
        not looked for.
    """

    schema_name: str = Field(alias="schema")
    name: str
    rows_expected: Count
    rows_found: Count | None
    matches: bool
    first_difference: Count | None = None


class Difference(Record):
    """Something that is not as it was in the source.

    :param kind: ``table``, ``sequence``, ``large object``, ``extension``, ``schema``, ``check`` or ``object``.
    :param name: of the thing, as people would call it.
    :param detail: what was expected, and what was found.
    """

    kind: str
    name: str
    detail: str


class CheckResult(Record):
    """What a user's own check found.

    :param passed: whether it returned true.
    :param detail: what it returned, or PostgreSQL's error.
    """

    sql: str
    passed: bool
    detail: str


class Verification(Record):
    """One verification.

    :param reason: why it could not verify; None for the other outcomes.
    :param where: the server restored into; None if there was none.
    :param restore_seconds: how long the restore took: what a recovery takes (RTO).
    :param tables: of every table; emptied when a newer verification follows.
    :param tables_matching: tables whose content is the source's.
    :param rows: rows compared, over all tables.
    """

    outcome: Outcome
    level: Level
    reason: str | None = None
    began_at: AwareDatetime
    duration_seconds: float
    restore_seconds: float | None = None
    compare_seconds: float | None = None
    where: str | None = None
    server_version: str | None = None
    pg_restore_version: str | None = None
    producer: Producer
    tables_matching: Count = 0
    rows: Count = 0
    tables: list[TableResult] = Field(default_factory=list)
    differences: list[Difference] = Field(default_factory=list)
    checks: list[CheckResult] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class Evidence(Record):
    """All that verifications of one backup have found.

    :param manifest_sha256: of the manifest that it speaks of.
    :param verifications: the newest first.
    """

    format: Literal[1]
    backup_id: BackupId
    manifest_sha256: Sha256
    verifications: Annotated[list[Verification], Field(min_length=1)]

    @property
    def is_verified(self) -> bool:
        """Whether the backup was restored and compared, and no later verification has failed.

        One that could not verify says nothing; checksums alone prove no restore.
        """
        for verification in self.verifications:
            if verification.outcome == "failed":
                return False
            if verification.outcome == "verified" and verification.level == "restore":
                return True
        return False

    def to_json(self) -> bytes:
        """Serialise, for people as well."""
        return self.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def key_of(manifest_key: str) -> str:
    """Key of the evidence for a manifest's key."""
    return manifest_key.removesuffix(MANIFEST_SUFFIX) + EVIDENCE_SUFFIX


def read_evidence(client: S3Client, bucket: str, stored: StoredManifest) -> Evidence | None:
    """Read what is known of a backup; None if nothing is, or nothing that speaks of this very manifest.

    :raises StorageError: S3 failed.
    """
    key = stored.base + stored.manifest.backup_id + EVIDENCE_SUFFIX
    try:
        answer = client.get_object(Bucket=bucket, Key=key)
        data = answer["Body"].read(_LIMIT_BYTES)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return None
        raise StorageError(f"s3://{bucket}/{key} cannot be read: {error}") from error
    except BotoCoreError as error:
        raise StorageError(f"s3://{bucket}/{key} cannot be read: {error}") from error
    try:
        evidence = Evidence.model_validate_json(data)
    except ValidationError:
        return None
    speaks_of_it = (evidence.backup_id, evidence.manifest_sha256) == (stored.manifest.backup_id, stored.sha256)
    return evidence if speaks_of_it else None


def followed_by(evidence: Evidence | None, stored: StoredManifest, verification: Verification) -> Evidence:
    """The evidence with a new verification; the oldest are forgotten."""
    older = [entry.model_copy(update={"tables": []}) for entry in (evidence.verifications if evidence else [])]
    return Evidence(
        format=1,
        backup_id=stored.manifest.backup_id,
        manifest_sha256=stored.sha256,
        verifications=[verification, *older[: KEPT - 1]],
    )
