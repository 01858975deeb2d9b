"""Deletes backups that no retention rule keeps, and what failed backups have left behind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from airflow_pg_s3.core.errors import InputError, StorageError
from airflow_pg_s3.core.reporting import Log, aligned, human, human_age, plural, say_result
from airflow_pg_s3.core.repository.backup_id import time_of
from airflow_pg_s3.core.repository.backup_name import other_databases
from airflow_pg_s3.core.repository.listing import MANIFEST_SUFFIX
from airflow_pg_s3.core.repository.neighbours import folder_not_repository
from airflow_pg_s3.core.repository.removal import Protected, Remover
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.repository.sweep_mark import Postponed
from airflow_pg_s3.core.retention.decisions import Decision, PrunePlanner
from airflow_pg_s3.core.retention.inventory import Inventory, take_inventory
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.sweep import Leftover, Sweep
from airflow_pg_s3.core.s3.object_lock import ObjectLocks
from airflow_pg_s3.core.s3.parallel import in_parallel

DEFAULT_ORPHAN_AGE = timedelta(hours=48)
SHORTEST_ORPHAN_AGE = timedelta(hours=2)
"""At its commit, a backup has said within an hour and a quarter that it is being made."""


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
    :param leftovers: what is left of the deleted ones, and of what had no manifest before, oldest first.
    :param postponed: why nothing more could be deleted safely; None if all was.
    """

    database: str
    decisions: Sequence[Decision]
    leftovers: Sequence[Leftover]
    postponed: str | None = None

    @property
    def orphans(self) -> Sequence[Leftover]:
        """What had no manifest before."""
        backups = {decision.backup_id for decision in self.decisions}
        return [leftover for leftover in self.leftovers if leftover.backup_id not in backups]

    @property
    def freed_bytes(self) -> int:
        """Bytes of the objects deleted; a bucket that keeps versions frees them later."""
        return sum(leftover.freed_bytes for leftover in self.leftovers)

    @property
    def needed_bytes(self) -> int:
        """Bytes of runs that are left of deleted backups, as other backups refer to them."""
        return sum(leftover.needed_bytes for leftover in self.leftovers)


def prune(request: PruneRequest, repository: Repository, *, cancel: threading.Event, log: Log) -> list[Pruned]:
    """Delete what no rule keeps, but for what other backups refer to. It may be interrupted anywhere: the next run
    goes on.

    Never deleted are: the newest backup that can be read, the newest verified one, what cannot be read, what
    carries the label `hold`, what Object Lock protects, and whatever is not a key of ours.

    A restore that read the manifest before it was deleted fails when it misses an object; so there is no lock.

    :param cancel: set from anywhere to stop.
    :raises InputError: the request cannot work; nothing was deleted.
    :raises StorageError: S3 failed for a database; the others were pruned.
    :raises Cancelled: told to stop.
    """
    if request.orphan_age < SHORTEST_ORPHAN_AGE:
        raise InputError(
            f"orphan_age must be at least {human_age(SHORTEST_ORPHAN_AGE.total_seconds())}, not "
            f"{human_age(request.orphan_age.total_seconds())}, or backups in progress look abandoned"
        )
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
    found_nothing = not any(one.decisions or one.leftovers for one in done)
    if found_nothing and (mistake := folder_not_repository(repository)) is not None:
        raise mistake
    if found_nothing and request.database:
        log.warning(
            "nothing is stored for %r in %s: %s",
            request.database,
            repository.root,
            other_databases(repository, request.database),
        )
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
        # Of a named database without anything stored, `prune` says more.
        if not found.complete and (found.folders or self._request.database is None):
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
        sweep = Sweep(
            self._repository,
            self._database,
            age=self._request.orphan_age,
            locks=self._locks,
            cancel=self._cancel,
            log=self._log,
        )
        leftovers: Mapping[str, Leftover] = sweep.survey(
            found, {one.backup_id for one in decisions if one.outcome == "deleted"}
        )
        self._say_plan(decisions, leftovers, found.now)
        postponed = None
        if not self._request.dry_run:
            decisions = self._remove(decisions, found)
            leftovers, postponed = self._sweep(sweep, decisions, leftovers, is_marked=found.is_marked)
        result = Pruned(
            database=self._database,
            decisions=decisions,
            leftovers=list(leftovers.values()),
            postponed=postponed,
        )
        self._say_result(result)
        return result

    def _remove(self, decisions: list[Decision], found: Inventory) -> list[Decision]:
        """Delete the manifests of the backups that are to go, oldest first."""

        def remove(decision: Decision) -> Decision:
            try:
                self._remove_one(decision.backup_id, has_evidence=decision.backup_id in found.evidence)
            except Protected as refusal:
                self._log.warning("%s", refusal)
                return replace(decision, outcome="protected", reasons=(str(refusal),))
            return decision

        doomed = [decision for decision in reversed(decisions) if decision.outcome == "deleted"]
        removed = {d.backup_id: d for d in in_parallel(remove, doomed, cancel=self._cancel)}
        return [removed.get(decision.backup_id, decision) for decision in decisions]

    def _remove_one(self, backup_id: str, *, has_evidence: bool) -> None:
        # Looked at before, but with thousands of backups that is a while ago.
        protection = self._locks.protection([f"{self._base}{backup_id}{MANIFEST_SUFFIX}"])
        if protection is not None:
            raise Protected(f"{backup_id} has got protected: {protection}")
        self._remover.remove_manifest(self._base, backup_id, has_evidence=has_evidence)

    def _sweep(
        self, sweep: Sweep, decisions: Sequence[Decision], leftovers: Mapping[str, Leftover], *, is_marked: bool
    ) -> tuple[Mapping[str, Leftover], str | None]:
        """Delete what is left, as far as it is safe at this time; what has become of it, and why not of all."""
        removed = {one.backup_id for one in decisions if one.outcome == "deleted"}
        backups = {one.backup_id for one in decisions}
        became = {i: one for i, one in leftovers.items() if i in removed or i not in backups}
        ripe = {i for i, one in became.items() if one.outcome == "deleted"}
        if not ripe and not is_marked:
            return became, None
        postponed = None
        try:
            for leftover in sweep.delete(removed, self._remover, self._request.s3_extra_args):
                became[leftover.backup_id] = leftover
                ripe.remove(leftover.backup_id)
        except Postponed as reason:
            postponed = str(reason)
        became |= {i: replace(became[i], outcome="postponed", freed_bytes=0) for i in ripe}
        return became, postponed

    def _say_plan(self, decisions: Sequence[Decision], leftovers: Mapping[str, Leftover], now: datetime) -> None:
        words = {"kept": "keep", "deleted": "delete", "protected": "protected", "unreadable": "unreadable"}
        rows = [
            (
                decision.backup_id,
                human_age((now - (time_of(decision.backup_id) or now)).total_seconds()),
                human(decision.stored_bytes) if decision.stored_bytes else "",
                human(leftovers[decision.backup_id].freed_bytes) if decision.backup_id in leftovers else "",
                words[decision.outcome],
                ", ".join(decision.reasons),
            )
            for decision in decisions
        ]
        title = "dry run: what a prune of %s would do:" if self._request.dry_run else "the plan for %s:"
        self._log.info(title, self._database)
        header = ("id", "age", "size", "frees", "what", "why")
        for line in aligned(header, rows, numbers=("age", "size", "frees")):
            self._log.info("%s", line)

    def _say_result(self, result: Pruned) -> None:
        for orphan in result.orphans:
            word = "would be deleted" if self._request.dry_run and orphan.outcome == "deleted" else orphan.outcome
            self._log.info("%s of %s: %s; %s", orphan.backup_id, self._database, word, orphan.reason)
        would = "would be " if self._request.dry_run else ""
        backups = Counter(decision.outcome for decision in result.decisions)
        orphans = Counter(orphan.outcome for orphan in result.orphans)
        say_result(
            self._log,
            "%s: %s kept, %d %sdeleted, %d protected, %d unreadable; %s %sremoved; %s %sfreed",
            self._database,
            plural(backups["kept"], "backup"),
            backups["deleted"],
            would,
            backups["protected"] + orphans["protected"],
            backups["unreadable"],
            plural(orphans["deleted"], "orphan"),
            would,
            human(result.freed_bytes),
            would,
        )
        self._say_what_stays(result)

    def _say_what_stays(self, result: Pruned) -> None:
        if result.needed_bytes:
            self._log.info(
                "%s: %s of deleted backups stay: other backups still need these objects",
                self._database,
                human(result.needed_bytes),
            )
        if result.postponed is not None:
            self._log.warning(
                "%s: what nothing refers to stays this time: %s; the next run goes on",
                self._database,
                result.postponed,
            )
        if self._remover.leaves_versions:
            self._log.info(
                "the bucket keeps versions: what was deleted takes room until a lifecycle rule for noncurrent "
                "versions removes it"
            )
