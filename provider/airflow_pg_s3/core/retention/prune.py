"""Deletes backups that no retention rule keeps, and what failed backups have left behind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from airflow_pg_s3.core.errors import InputError, StorageError
from airflow_pg_s3.core.reporting import Log, aligned, human, human_age
from airflow_pg_s3.core.repository.backup_id import time_of
from airflow_pg_s3.core.repository.listing import MANIFEST_SUFFIX
from airflow_pg_s3.core.repository.removal import Protected, Remover
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.retention.inventory import Inventory, take_inventory
from airflow_pg_s3.core.retention.orphans import Orphan, OrphanSweep
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune_plan import Decision, PrunePlanner
from airflow_pg_s3.core.s3.object_lock import ObjectLocks
from airflow_pg_s3.core.s3.parallel import in_parallel

DEFAULT_ORPHAN_AGE = timedelta(hours=48)


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """What to keep.

    :param database: None for all databases of the repository, each by itself.
    :param orphan_age: what has no manifest goes when nothing was written to it for so long; longer than any backup
        takes from one write to the next.
    :param dry_run: decide and say, but delete nothing.
    :param s3_extra_args: arguments for the S3 requests that accept them.
    """

    retention: RetentionPolicy
    database: str | None = None
    orphan_age: timedelta = DEFAULT_ORPHAN_AGE
    dry_run: bool = False
    s3_extra_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What has become of the backups of one database, or would.

    :param decisions: newest first.
    :param orphans: those left alone as well.
    """

    database: str
    decisions: Sequence[Decision]
    orphans: Sequence[Orphan]

    @property
    def freed_bytes(self) -> int:
        """Bytes of the objects deleted; a bucket that keeps versions frees them later."""
        deleted: list[Decision | Orphan] = [*self.decisions, *self.orphans]
        return sum(one.stored_bytes for one in deleted if one.outcome == "deleted")


def prune(request: PruneRequest, repository: Repository, *, cancel: threading.Event, log: Log) -> list[Pruned]:
    """Delete what no rule keeps. It may be interrupted anywhere: the next run goes on.

    Never deleted are: the newest backup that can be read, the newest verified one, what cannot be read, what
    carries the label `hold`, what Object Lock protects, and whatever is not a key of ours.

    A restore that read the manifest before it was deleted fails when it misses an object; so there is no lock.

    :param cancel: set from anywhere to stop.
    :raises InputError: the request cannot work; nothing was deleted.
    :raises StorageError: S3 failed for a database; the others were pruned.
    :raises Cancelled: told to stop.
    """
    if request.orphan_age < timedelta(0):
        raise InputError(f"orphan_age must not be negative, but is {request.orphan_age}")
    databases = [request.database] if request.database else dict.fromkeys(filter(None, repository.databases()))
    if not databases:
        log.warning("the repository holds nothing: are its bucket and prefix right?")
    locks = ObjectLocks(repository.client, repository.bucket)
    done: list[Pruned] = []
    failed: list[StorageError] = []
    for database in databases:
        try:
            done.append(_Run(request, repository, database, locks, cancel, log).prune())
        except StorageError as error:
            # What is wrong with one database must not let the others grow forever.
            log.warning("%s could not be pruned: %s", database, error)
            failed.append(StorageError(f"{database}: {error}"))
    if failed:
        raise StorageError(
            f"{len(failed)} of {len(databases)} databases could not be pruned, the next run goes on: {failed[0]}"
        ) from failed[0]
    return done


class _Run:
    """Prunes one database."""

    def __init__(
        self,
        request: PruneRequest,
        repository: Repository,
        database: str,
        locks: ObjectLocks,
        cancel: threading.Event,
        log: Log,
    ) -> None:
        self._request = request
        self._repository = repository
        self._database = database
        self._base = repository.base(database)
        self._locks = locks
        self._cancel = cancel
        self._log = log
        self._remover = Remover(
            repository.client, repository.bucket, extra_args=request.s3_extra_args, cancel=cancel, log=log
        )

    def prune(self) -> Pruned:
        found = take_inventory(self._repository.client, self._repository.bucket, self._base)
        if not found.complete:
            self._log.warning("there is no complete backup in %s", self._repository.uri(self._base))
        planner = PrunePlanner(
            self._repository,
            found,
            database=self._database,
            retention=self._request.retention,
            locks=self._locks,
            cancel=self._cancel,
        )
        decisions = planner.decide()
        self._say_plan(decisions, found.now)
        if not self._request.dry_run:
            decisions = self._remove(decisions, found)
        orphans = self._sweep(found)
        result = Pruned(database=self._database, decisions=decisions, orphans=orphans)
        self._say_result(result)
        return result

    def _remove(self, decisions: list[Decision], found: Inventory) -> list[Decision]:
        """Delete the backups that are to go, oldest first."""

        def remove(decision: Decision) -> Decision:
            try:
                self._remove_one(decision.backup_id, has_evidence=decision.backup_id in found.evidence)
            except Protected as refusal:
                self._log.warning("%s", refusal)
                return replace(decision, outcome="protected", reasons=(str(refusal),))
            self._log.info("deleted %s of %s", decision.backup_id, self._database)
            return decision

        doomed = [decision for decision in reversed(decisions) if decision.outcome == "deleted"]
        removed = {d.backup_id: d for d in in_parallel(remove, doomed, cancel=self._cancel)}
        return [removed.get(decision.backup_id, decision) for decision in decisions]

    def _remove_one(self, backup_id: str, *, has_evidence: bool) -> None:
        # Looked at before, but with thousands of backups that is a while ago.
        protection = self._locks.protection([f"{self._base}{backup_id}{MANIFEST_SUFFIX}"])
        if protection is not None:
            raise Protected(f"{backup_id} has got protected: {protection}")
        self._remover.remove_backup(self._base, backup_id, has_evidence=has_evidence)

    def _sweep(self, found: Inventory) -> list[Orphan]:
        sweep = OrphanSweep(
            self._repository,
            found,
            database=self._database,
            age=self._request.orphan_age,
            locks=self._locks,
            remover=None if self._request.dry_run else self._remover,
            cancel=self._cancel,
        )
        words = {"deleted": "would delete" if self._request.dry_run else "deleted", "young": "left alone"}
        orphans = []
        for orphan in sweep.sweep():
            word = words.get(orphan.outcome, orphan.outcome)
            self._log.info("%s %s of %s: %s", word, orphan.backup_id, self._database, orphan.reason)
            orphans.append(orphan)
        return orphans

    def _say_plan(self, decisions: Sequence[Decision], now: datetime) -> None:
        words = {"kept": "keep", "deleted": "delete", "protected": "protected", "unreadable": "unreadable"}
        rows = [
            (
                decision.backup_id,
                human_age((now - (time_of(decision.backup_id) or now)).total_seconds()),
                human(decision.stored_bytes),
                words[decision.outcome],
                ", ".join(decision.reasons),
            )
            for decision in decisions
        ]
        title = "the plan, of which nothing is done (dry run)" if self._request.dry_run else "the plan"
        self._log.info("%s for %s:", title, self._database)
        for line in aligned(("id", "age", "size", "what", "why"), rows, numbers=("age", "size")):
            self._log.info("%s", line)

    def _say_result(self, result: Pruned) -> None:
        backups = Counter(decision.outcome for decision in result.decisions)
        orphans = Counter(orphan.outcome for orphan in result.orphans)
        self._log.info(
            "%s: %d backups kept, %d %s, %d protected, %d unreadable; %d orphans %s; %s",
            self._database,
            backups["kept"],
            backups["deleted"],
            "would be deleted" if self._request.dry_run else "deleted",
            backups["protected"] + orphans["protected"],
            backups["unreadable"],
            orphans["deleted"],
            "would be removed" if self._request.dry_run else "removed",
            human(result.freed_bytes),
        )
        if self._remover.leaves_versions:
            self._log.info(
                "the bucket keeps versions: what was deleted takes room until a lifecycle rule for noncurrent "
                "versions removes it"
            )
