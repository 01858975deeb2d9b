"""The evidence: what verifications of a backup have found, beside its manifest. docs/format.md describes it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import AwareDatetime, Field

from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.record import Count, Record, Sha256, check_seal, sealed
from airflow_pg_s3.core.repository.listing import EVIDENCE_SUFFIX
from airflow_pg_s3.core.repository.manifest import BackupId, Producer
from airflow_pg_s3.core.repository.repository import StoredManifest
from airflow_pg_s3.core.s3.errors import explain_unreadable, status_of
from airflow_pg_s3.core.s3.requests import content_md5, get_object, of_records

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


KEPT = 20
"""How many verifications of a backup are remembered."""

_LIMIT_BYTES = 1 << 28
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.1
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

    :param kind: ``table``, ``sequence``, ``large object``, ``extension`` or ``schema`` of the restored database;
        ``check`` of the user's; ``restore``, which failed; ``object``, of S3; or ``backup``, another one that
        refers to chunks that are damaged.
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

    @property
    def is_conclusive(self) -> bool:
        """True if it proved the backup or the contrary: checksums alone prove no restore."""
        return self.outcome == "failed" or (self.outcome == "verified" and self.level == "restore")


class Evidence(Record):
    """All that verifications of one backup have found.

    :param manifest_sha256: of the manifest that it speaks of.
    :param stored_bytes: that the backup consists of; so many were to be read.
    :param new_stored_bytes: those of them that it has stored itself; the others lie in earlier backups' folders.
    :param verifications: the newest first.
    """

    format: Literal[1]
    backup_id: BackupId
    manifest_sha256: Sha256
    stored_bytes: Count
    new_stored_bytes: Count
    verifications: Annotated[list[Verification], Field(min_length=1)]

    @property
    def is_verified(self) -> bool:
        """True if the backup was restored and compared, and no later verification has failed.

        One that could not verify says nothing; checksums alone prove no restore.
        """
        telling = (verification for verification in self.verifications if verification.is_conclusive)
        newest = next(telling, None)
        return newest is not None and newest.outcome == "verified"

    def to_json(self) -> bytes:
        """Serialise, for people as well, and seal."""
        return sealed(self.model_dump_json(by_alias=True, indent=1))


def key_of(stored: StoredManifest) -> str:
    """Key of a backup's evidence."""
    return stored.base + stored.manifest.backup_id + EVIDENCE_SUFFIX


def read_evidence(client: S3Client, bucket: str, stored: StoredManifest) -> Evidence | None:
    """Read what is known of a backup; None if nothing is, or nothing that speaks of this very manifest.

    :raises Unreadable: S3 does not give it out.
    :raises AccessDenied: there is no right to read it.
    :raises StorageError: S3 failed.
    """
    return _read(client, bucket, stored)[0]


def record(
    client: S3Client,
    bucket: str,
    stored: StoredManifest,
    verification: Verification,
    extra_args: Mapping[str, Any],
) -> str:
    """Put a verification before the others of its backup; return the URI of the evidence.

    Two that end at the same time are both kept, where S3 knows conditional writes.

    :param extra_args: arguments for the S3 request, those that it accepts.
    :raises StorageError: S3 failed.
    """
    key = key_of(stored)
    arguments: Any = of_records(client, extra_args)
    conditions = [_unless_changed, _unless_changed_without_quotes, _in_any_case]
    last_etag: str | None = ""
    for attempt in range(1, _ATTEMPTS + 1):
        evidence, etag = _read(client, bucket, stored)
        if attempt > 1 and etag == last_etag:
            # Refused, and nobody has written: the store reads the condition otherwise.
            conditions = conditions[1:] or [_in_any_case]
        last_etag = etag
        body = followed_by(evidence, stored, verification).to_json()
        try:
            client.put_object(
                **arguments | conditions[0](etag),
                Bucket=bucket,
                Key=key,
                Body=body,
                ContentType="application/json",
                **content_md5(client, body),
            )
        except (ClientError, BotoCoreError) as error:
            status = status_of(error)
            is_conditional = conditions[0] is not _in_any_case
            if status in (404, 409, 412) and attempt < _ATTEMPTS:
                # Somebody else was faster; or it was we ourselves, and the answer was lost.
                if _has(client, bucket, stored, verification):
                    break
                time.sleep(random.uniform(0, _PAUSE_SECONDS * attempt))
            elif status in (400, 501) and is_conditional:
                conditions = [_in_any_case]
            else:
                raise StorageError(f"s3://{bucket}/{key} cannot be written: {error}") from error
        else:
            break
    return f"s3://{bucket}/{key}"


def _unless_changed(etag: str | None) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}


def _unless_changed_without_quotes(etag: str | None) -> dict[str, str]:
    # As Ceph 16 compares them.
    return _unless_changed(etag and etag.strip('"'))


def _in_any_case(etag: str | None) -> dict[str, str]:
    return {}


def _has(client: S3Client, bucket: str, stored: StoredManifest, verification: Verification) -> bool:
    evidence = read_evidence(client, bucket, stored)
    ours = (verification.began_at, verification.duration_seconds)
    return evidence is not None and ours in [(v.began_at, v.duration_seconds) for v in evidence.verifications]


def _read(client: S3Client, bucket: str, stored: StoredManifest) -> tuple[Evidence | None, str | None]:
    """Read the evidence, and the ETag of what lies in its place, whatever that is."""
    evidence, etag = _read_once(client, bucket, stored)
    if evidence is None and etag is not None:
        # It will be replaced: so not before it is sure that it was not damaged on its way.
        evidence, etag = _read_once(client, bucket, stored)
    return evidence, etag


def _read_once(client: S3Client, bucket: str, stored: StoredManifest) -> tuple[Evidence | None, str | None]:
    key = key_of(stored)
    try:
        answer = get_object(client, Bucket=bucket, Key=key)
        if answer["ContentLength"] > _LIMIT_BYTES:
            return None, answer["ETag"]
        data = answer["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return None, None
        raise explain_unreadable(error, bucket, key) from error
    except BotoCoreError as error:
        raise StorageError(f"s3://{bucket}/{key} cannot be read: {error}") from error
    try:
        check_seal(data)
        evidence = Evidence.model_validate_json(data)
    except ValueError:  # pydantic's is one too
        return None, answer["ETag"]
    speaks_of_it = (evidence.backup_id, evidence.manifest_sha256) == (stored.manifest.backup_id, stored.sha256)
    return evidence if speaks_of_it else None, answer["ETag"]


def followed_by(evidence: Evidence | None, stored: StoredManifest, verification: Verification) -> Evidence:
    """The evidence with a new verification; the oldest are forgotten, but not the newest that tells something."""
    older = [entry.model_copy(update={"tables": []}) for entry in (evidence.verifications if evidence else [])]
    kept, forgotten = older[: KEPT - 1], older[KEPT - 1 :]
    if not any(entry.is_conclusive for entry in [verification, *kept]):
        kept[-1:] = [entry for entry in forgotten if entry.is_conclusive][:1] or kept[-1:]
    return Evidence(
        format=1,
        backup_id=stored.manifest.backup_id,
        manifest_sha256=stored.sha256,
        stored_bytes=stored.manifest.stored_bytes,
        new_stored_bytes=stored.manifest.new_stored_bytes,
        verifications=[verification, *kept],
    )
