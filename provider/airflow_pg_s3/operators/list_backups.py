"""Lists backups, so that a downstream task can take the latest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_pg_s3 import connections
from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.repository import BackupRef, Repository, read_manifest
from airflow_pg_s3.operators.base import PgS3Operator

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MANIFESTS_AT_ONCE = 8


class PgS3ListBackupsOperator(PgS3Operator):
    """List the complete backups in a repository, newest first; incomplete ones are never shown.

    :param repository: ``s3://bucket/any/prefix`` (templated).
    :param aws_conn_id: AWS connection; None for the machine's own credentials (templated).
    :param database: only this database's backups; those of all if None (templated).
    :param pattern: list archives of other tools instead, by glob pattern of their keys below the prefix, such as
        ``*.tar.gz`` (templated).
    :param before: only backups made before this time: a `datetime`, or ISO 8601 text, in UTC unless it says
        otherwise (templated).
    :param verified_only: only backups with a recorded verification.
    :param labels: only backups that carry all of these labels (templated).
    :param limit: at most this many (templated).
    :param fail_if_empty: fail if there is none, rather than return an empty list.
    :returns: a list of dicts, each with ``uri``, ``key``, ``database``, ``created_at`` (ISO 8601), ``size`` (bytes
        stored), ``verified``; backups also with ``backup_id``, ``raw_bytes``, ``tables``, ``rows``,
        ``labels``.
    :raises AirflowFailException: the request cannot work.
    """

    template_fields: Sequence[str] = (
        "repository",
        "aws_conn_id",
        "database",
        "pattern",
        "before",
        "labels",
        "limit",
    )
    ui_color = "#f7f4f9"

    def __init__(
        self,
        *,
        repository: str,
        aws_conn_id: str | None = "aws_default",
        database: str | None = None,
        pattern: str | None = None,
        before: datetime | str | None = None,
        verified_only: bool = False,
        labels: Mapping[str, str] | None = None,
        limit: int | str | None = None,
        fail_if_empty: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.repository = repository
        self.aws_conn_id = aws_conn_id
        self.database = database
        self.pattern = pattern
        self.before = before
        self.verified_only = verified_only
        self.labels = labels
        self.limit = limit
        self.fail_if_empty = fail_if_empty

    def execute(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """List the backups."""
        with self._failing_for_good():
            client, _ = connections.s3_client(self.aws_conn_id)
            repository = Repository(client, self.repository)
            with ThreadPoolExecutor(_MANIFESTS_AT_ONCE, thread_name_prefix="manifest") as pool:
                rows = self._read(client, self._select(repository), pool)
            if not rows and self.fail_if_empty:
                raise InputError(f"there is no backup {self._what()}: has one been made, and is the prefix right?")
        for row in rows:
            self.log.info("%s  %s  %s bytes", row["created_at"], row["uri"], row["size"])
        return rows

    def _read(self, client: S3Client, refs: list[BackupRef], pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
        """Read the manifests, newest first, until there are enough that fit."""
        labels, before = connections.as_labels(self.labels), _parse_time(self.before)
        limit = len(refs) if self.limit in (None, "") else connections.as_int(self.limit, "limit")
        if self.limit not in (None, "") and limit < 1:
            raise InputError(f"limit must be at least 1, not {limit}")
        rows: list[dict[str, Any]] = []
        # Some at a time: the newest of 100,000 backups is not worth reading all of them.
        step = max(limit, _MANIFESTS_AT_ONCE if labels or before else 1)
        for start in range(0, len(refs), step):
            for row in pool.map(lambda ref: self._row(client, ref), refs[start : start + step]):
                # Ids have whole seconds, so that only the manifest tells whether a backup is before itself.
                if row is None or (before and datetime.fromisoformat(row["created_at"]) >= before):
                    continue
                if labels.items() <= row.get("labels", {}).items():
                    rows.append(row)
            if len(rows) >= limit:
                break
        return rows[:limit]

    def _row(self, client: S3Client, ref: BackupRef) -> dict[str, Any] | None:
        """Read one manifest; None if nothing can be restored from it, which must not hide the others."""
        try:
            return _row(client, ref)
        except (InputError, IntegrityError) as error:
            # Pruned meanwhile, damaged, or of a later format.
            self.log.warning("left out of the list: %s", error)
            return None

    def _select(self, repository: Repository) -> list[BackupRef]:
        if self.pattern:
            refs = repository.foreign_archives(self.pattern)
        else:
            databases = [self.database] if self.database else repository.databases()
            refs = sorted((ref for name in databases for ref in repository.backups(name)), reverse=True)
        before = _parse_time(self.before)
        if before is not None:
            refs = [ref for ref in refs if ref.created_at < before]
        if self.verified_only:
            refs = [ref for ref in refs if ref.has_evidence]
        return refs

    def _what(self) -> str:
        parts = [f"in {self.repository}"]
        if self.database:
            parts.append(f"of database {self.database!r}")
        if self.pattern:
            parts.append(f"matching {self.pattern!r}")
        if self.before:
            parts.append(f"before {self.before}")
        if self.labels:
            parts.append(f"with labels {self.labels}")
        if self.verified_only:
            parts.append("that is verified")
        return " ".join(parts)


def _row(client: S3Client, ref: BackupRef) -> dict[str, Any]:
    row: dict[str, Any] = {
        "uri": ref.uri,
        "key": ref.key,
        "database": ref.database,
        "created_at": ref.created_at.isoformat(),
        "size": ref.object_bytes,
        "verified": ref.has_evidence,
    }
    if ref.backup_id is not None:
        manifest = read_manifest(client, ref.uri).manifest
        row |= {
            "created_at": manifest.created_at.isoformat(),
            "size": manifest.stored_bytes,
            "backup_id": ref.backup_id,
            "labels": manifest.labels,
            "raw_bytes": manifest.raw_bytes,
            "tables": manifest.tables,
            "rows": manifest.rows,
        }
    return row


def _parse_time(value: datetime | str | None) -> datetime | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InputError(f"before must be a time such as 2026-01-31T05:00:00Z, not {value!r}") from error
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
