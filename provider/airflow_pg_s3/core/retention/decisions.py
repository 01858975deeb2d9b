"""What becomes of each complete backup of a database, and why. Reads, and deletes nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from airflow_pg_s3.core.errors import InputError, IntegrityError, PgS3Error
from airflow_pg_s3.core.repository.repository import Repository, read_manifest
from airflow_pg_s3.core.repository.verification_record import read_evidence
from airflow_pg_s3.core.retention.inventory import Inventory
from airflow_pg_s3.core.retention.policy import RetentionPolicy, plan
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3.object_lock import ObjectLocks
from airflow_pg_s3.core.s3.parallel import AT_ONCE, in_parallel

HOLD = "hold"
"""The label whose value, if not empty, keeps a backup whatever the rules say."""

Outcome = Literal["kept", "deleted", "protected", "unreadable"]
NEWEST_VERIFIED = "newest verified"
EVIDENCE_UNREADABLE = "its evidence cannot be read"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one backup.

    :param outcome: ``protected`` by Object Lock, and ``unreadable`` ones, are not deleted either.
    :param reasons: the rules that keep it, or why not.
    :param stored_bytes: that it consists of, other backups' among them; 0 if its manifest cannot be read.
    """

    backup_id: str
    outcome: Outcome
    reasons: tuple[str, ...]
    stored_bytes: int = 0


class PrunePlanner:
    """Decides for each complete backup of one database.

    :param found: what there is.
    """

    def __init__(
        self,
        repository: Repository,
        found: Inventory,
        *,
        database: str,
        retention: RetentionPolicy,
        locks: ObjectLocks,
        cancel: threading.Event,
    ) -> None:
        self._repository = repository
        self._found = found
        self._database = database
        self._base = repository.base(database)
        self._retention = retention
        self._locks = locks
        self._cancel = cancel
        self._no_use: dict[str, Decision | None] = {}
        self._sizes: dict[str, int] = {}

    def decide(self) -> list[Decision]:
        """Decide for all of them, newest first.

        :raises StorageError: S3 failed.
        """
        kept = self._kept_by_rules()
        for backup_id, reason in self._kept_by_evidence():
            kept.setdefault(backup_id, []).append(reason)
        others = [i for i in self._found.complete if i not in kept and i not in self._no_use]
        decisions = [
            *(
                Decision(backup_id=i, outcome="kept", reasons=tuple(reasons), stored_bytes=self._sizes.get(i, 0))
                for i, reasons in kept.items()
            ),
            *(decision for i, decision in self._no_use.items() if i not in kept),
            *in_parallel(self._judge, others, cancel=self._cancel),
        ]
        return sorted((d for d in decisions if d is not None), key=lambda d: d.backup_id, reverse=True)

    def _kept_by_rules(self) -> dict[str, list[str]]:
        """Let the rules choose among what can be read: a broken backup must not take a good one's place."""
        while True:
            planned = plan((i for i in self._found.complete if i not in self._no_use), self._retention)
            unread = [i for i in planned.kept if i not in self._sizes]
            if not unread:
                return planned.reasons()
            read = in_parallel(lambda backup_id: self._read(backup_id)[0], unread, cancel=self._cancel)
            for backup_id, decision in zip(unread, read, strict=True):
                if decision is None or decision.outcome == "unreadable":
                    self._no_use[backup_id] = decision
                else:
                    self._sizes[backup_id] = decision.stored_bytes

    def _kept_by_evidence(self) -> Iterator[tuple[str, str]]:
        """Yield the newest verified backup, and younger ones that may be it."""
        ids = [i for i in self._found.complete if i in self._found.evidence and i not in self._no_use]
        states = in_parallel(self._verified_state, ids, cancel=self._cancel, ahead=AT_ONCE)
        for backup_id, state in zip(ids, states, strict=False):
            if state is not None:
                yield backup_id, state
            if state == NEWEST_VERIFIED:
                return

    def _verified_state(self, backup_id: str) -> str | None:
        try:
            stored = read_manifest(self._repository.client, self._uri(backup_id))
        except s3_errors.AccessDenied:
            raise
        except (InputError, IntegrityError) as error:
            # Once and for all: read again it might be whole, and found to be of no use.
            self._no_use[backup_id] = self._unreadable(backup_id, error)
            return None
        self._sizes[backup_id] = stored.manifest.stored_bytes
        try:
            evidence = read_evidence(self._repository.client, self._repository.bucket, stored)
        except s3_errors.Unreadable:
            evidence = None
        if evidence is None:
            return EVIDENCE_UNREADABLE
        return NEWEST_VERIFIED if evidence.is_verified else None

    def _judge(self, backup_id: str) -> Decision | None:
        """Look for what forbids to delete a backup that no rule keeps; None if it is gone."""
        decision, keys = self._read(backup_id)
        if decision is None or decision.outcome != "deleted":
            return decision
        protection = self._locks.protection(keys)
        if protection is not None:
            return replace(decision, outcome="protected", reasons=(protection,))
        return decision

    def _read(self, backup_id: str) -> tuple[Decision | None, Iterable[str]]:
        """Read a manifest: what to do if no rule keeps the backup, and the keys that would go."""
        manifest_key = self._repository.manifest_key(self._database, backup_id)
        try:
            manifest = read_manifest(self._repository.client, self._uri(backup_id)).manifest
        except s3_errors.AccessDenied:
            raise
        except (InputError, IntegrityError) as error:
            return self._unreadable(backup_id, error), []
        hold = manifest.labels.get(HOLD)
        decision = Decision(
            backup_id=backup_id,
            outcome="kept" if hold else "deleted",
            reasons=(f"label {HOLD}={hold}",) if hold else ("no rule keeps it",),
            stored_bytes=manifest.stored_bytes,
        )
        own = (self._base + key for key in manifest.object_keys() if key.startswith(f"{backup_id}/"))
        return decision, chain([manifest_key], own)

    def _unreadable(self, backup_id: str, error: PgS3Error) -> Decision | None:
        is_there = isinstance(error, s3_errors.Unreadable) or self._repository.is_committed(
            self._database, backup_id
        )
        if not is_there:
            return None
        return Decision(backup_id=backup_id, outcome="unreadable", reasons=(str(error),))

    def _uri(self, backup_id: str) -> str:
        return self._repository.uri(self._repository.manifest_key(self._database, backup_id))
