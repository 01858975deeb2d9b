"""Deletes what no backup refers to of what deleted backups, and failed ones, have left.

Backups may refer to runs in the folders of others, also of those that were deleted long ago. So nothing is deleted
but under the mark that keeps backups from referring to it meanwhile (`core/repository/sweep_mark.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Literal

from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.listing import EVIDENCE_SUFFIX
from airflow_pg_s3.core.repository.removal import PRUNED, Protected, Remover
from airflow_pg_s3.core.repository.repository import BEGUN, SETTLED, Repository
from airflow_pg_s3.core.repository.sweep_mark import Postponed, SweepMark
from airflow_pg_s3.core.retention.inventory import Inventory, take_inventory
from airflow_pg_s3.core.retention.needed_runs import NeededRuns
from airflow_pg_s3.core.s3.errors import translate_errors
from airflow_pg_s3.core.s3.object_lock import ObjectLocks
from airflow_pg_s3.core.s3.parallel import in_parallel
from airflow_pg_s3.core.s3.requests import list_pages


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """What is stored for an id that has no manifest, or is about to lose it.

    :param outcome: ``deleted``, but for what is needed; ``needed``: other backups refer to all that is left;
        ``young``: it may be a backup in progress; ``protected`` by Object Lock; ``postponed``: deleting it was not
        safe this time.
    :param reason: what was found.
    :param is_pruned: a prune has deleted its manifest, or is about to.
    :param freed_bytes: of the objects that are deleted.
    :param needed_bytes: of the runs that stay, as other backups refer to them.
    """

    backup_id: str
    outcome: Literal["deleted", "needed", "young", "protected", "postponed"]
    reason: str
    is_pruned: bool = False
    freed_bytes: int = 0
    needed_bytes: int = 0


@dataclass(kw_only=True)
class _Contents:
    """What a folder holds, but for the marks that say what it is.

    :param dead: number of the objects that no backup refers to.
    :param last_written: when the newest object was, marks among them; None if there is none at all.
    """

    dead: int = 0
    dead_bytes: int = 0
    needed_bytes: int = 0
    last_written: datetime | None = None
    is_pruned: bool = False


class Sweep:
    """Finds what is left of the backups of one database that were deleted or failed, and deletes it.

    :param age: how long ago the last thing must have been written to what no prune has deleted.
    """

    def __init__(
        self,
        repository: Repository,
        database: str,
        *,
        age: timedelta,
        locks: ObjectLocks,
        cancel: threading.Event,
        log: Log,
    ) -> None:
        self._repository = repository
        self._database = database
        self._base = repository.base(database)
        self._age = age
        self._locks = locks
        self._cancel = cancel
        self._log = log

    def survey(self, found: Inventory, doomed: Collection[str]) -> dict[str, Leftover]:
        """Look at what is left, and what would be if some backups were deleted; by id, the oldest first.

        :param doomed: ids of complete backups whose locks were looked at.
        :raises AccessDenied: there is no right to read what tells.
        :raises StorageError: S3 failed.
        """
        complete = set(found.complete).difference(doomed)
        suspects = (found.folders | set(found.evidence)).union(doomed) - complete
        self._live = NeededRuns(self._repository, self._database, suspects, cancel=self._cancel, log=self._log)
        self._live.read(sorted(complete) if suspects else [])

        def look_at(backup_id: str) -> Leftover | None:
            return self._look_at(backup_id, found, is_doomed=backup_id in doomed)

        looked = in_parallel(look_at, sorted(suspects), cancel=self._cancel)
        self._leftovers = {leftover.backup_id: leftover for leftover in looked if leftover is not None}
        return self._leftovers

    def delete(
        self, removed: Collection[str], remover: Remover, extra_args: Mapping[str, Any]
    ) -> Iterator[Leftover]:
        """Delete what the survey has found; yield what has become of each.

        :param removed: ids of the doomed backups whose manifests were deleted.
        :param extra_args: arguments for the S3 requests that accept them.
        :raises Postponed: nothing more can be deleted safely this time, as a backup or another sweep is at work.
        :raises StorageError: S3 failed.
        """
        client, bucket = self._repository.client, self._repository.bucket
        with SweepMark(client, bucket, self._base, extra_args=extra_args, log=self._log) as mark:
            found = take_inventory(client, bucket, self._base)
            complete = set(found.complete).difference(removed) | self._unlisted(found, removed)
            self._live.read(sorted(complete))

            def delete(leftover: Leftover) -> Leftover:
                return self._delete(leftover, remover, mark, has_evidence=leftover.backup_id in found.evidence)

            ripe = [one for one in self._leftovers.values() if one.outcome == "deleted"]
            yield from in_parallel(
                delete, [one for one in ripe if one.backup_id not in complete], cancel=self._cancel
            )

    def _look_at(self, backup_id: str, found: Inventory, *, is_doomed: bool) -> Leftover | None:
        """Judge what is left of one; None if it is nothing, or a backup after all."""
        contents = self._contents(backup_id)
        written = [time for time in (contents.last_written, found.evidence.get(backup_id)) if time is not None]
        if not written:
            return None
        evidence = [self._evidence_key(backup_id)] if backup_id in found.evidence else []
        what = f"no manifest; {contents.dead} objects, {len(evidence)} evidence"
        last = f"last written {max(written).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        leftover = Leftover(
            backup_id=backup_id,
            outcome="deleted",
            reason=f"{what}, {'left by a prune' if contents.is_pruned else last}",
            is_pruned=is_doomed or contents.is_pruned,
            freed_bytes=contents.dead_bytes,
            needed_bytes=contents.needed_bytes,
        )
        if is_doomed:
            return leftover
        if not contents.is_pruned and max(written) > found.now - self._age:
            return replace(leftover, outcome="young", freed_bytes=0)
        if self._repository.is_committed(self._database, backup_id):
            return None
        if contents.needed_bytes and not (contents.dead or evidence):
            return replace(leftover, outcome="needed")
        protection = self._locks.protection(chain(evidence, self._dead_keys(backup_id)))
        if protection is not None:
            return replace(leftover, outcome="protected", reason=protection, freed_bytes=0)
        return leftover

    def _unlisted(self, found: Inventory, removed: Collection[str]) -> set[str]:
        """Find backups that are complete, although the list does not show their manifests yet.

        :raises Postponed: a backup may be in progress.
        """
        unlisted = set()
        for backup_id in sorted(found.folders.difference(found.complete, removed)):
            known = self._leftovers.get(backup_id)
            if known is not None and known.is_pruned:
                continue
            is_young = any(entry["LastModified"] > found.now - self._age for entry in self._objects(backup_id))
            # Asked after the listing: it may have been committed meanwhile.
            if self._repository.is_committed(self._database, backup_id):
                unlisted.add(backup_id)
            elif is_young:
                raise Postponed(
                    f"backup {backup_id} may be in progress: it has no manifest, and was written to lately"
                )
        return unlisted

    def _delete(self, leftover: Leftover, remover: Remover, mark: SweepMark, *, has_evidence: bool) -> Leftover:
        freed_bytes = needed_bytes = 0
        marks = []
        try:
            if has_evidence:
                remover.delete([self._evidence_key(leftover.backup_id)], mark.confirm)
            for page in self._pages(leftover.backup_id):
                kinds = [(self._kind(entry["Key"]), entry) for entry in page]
                marks += [entry["Key"] for kind, entry in kinds if kind == "mark"]
                needed_bytes += sum(entry["Size"] for kind, entry in kinds if kind == "needed")
                dead = [entry for kind, entry in kinds if kind == "dead"]
                remover.delete([entry["Key"] for entry in dead], mark.confirm)
                freed_bytes += sum(entry["Size"] for entry in dead)
            if not needed_bytes:
                remover.delete(marks, mark.confirm)
        except Protected as refusal:
            leftover = replace(leftover, outcome="protected", reason=str(refusal))
        return replace(leftover, freed_bytes=freed_bytes, needed_bytes=needed_bytes)

    def _contents(self, backup_id: str) -> _Contents:
        contents = _Contents()
        for entry in self._objects(backup_id):
            kind = self._kind(entry["Key"])
            if kind == "dead":
                contents.dead += 1
                contents.dead_bytes += entry["Size"]
            elif kind == "needed":
                contents.needed_bytes += entry["Size"]
            elif entry["Key"].endswith(f"/{PRUNED}"):
                contents.is_pruned = True
            contents.last_written = max(contents.last_written or entry["LastModified"], entry["LastModified"])
        return contents

    def _dead_keys(self, backup_id: str) -> Iterator[str]:
        return (entry["Key"] for entry in self._objects(backup_id) if self._kind(entry["Key"]) == "dead")

    def _kind(self, key: str) -> Literal["mark", "needed", "dead"]:
        name = key.removeprefix(self._base)
        if name.partition("/")[2] in (BEGUN, SETTLED, PRUNED):
            return "mark"
        return "needed" if self._live.holds(name) else "dead"

    def _objects(self, backup_id: str) -> Iterator[Any]:
        return chain.from_iterable(self._pages(backup_id))

    def _pages(self, backup_id: str) -> Iterator[list[Any]]:
        """Yield what is in a folder, a thousand objects at a time, as there may be very many."""
        bucket = self._repository.bucket
        with translate_errors(bucket):
            for page in list_pages(self._repository.client, Bucket=bucket, Prefix=f"{self._base}{backup_id}/"):
                yield page.get("Contents", [])

    def _evidence_key(self, backup_id: str) -> str:
        return f"{self._base}{backup_id}{EVIDENCE_SUFFIX}"
