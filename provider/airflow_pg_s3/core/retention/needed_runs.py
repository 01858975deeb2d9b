"""Which runs in the folders of deleted backups other backups refer to."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.manifest import parse_run_key
from airflow_pg_s3.core.repository.repository import Repository, read_manifest
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3.parallel import in_parallel

_Ranges = list[tuple[int, int]]


class NeededRuns:
    """The runs that must stay, in some folders. Those of complete backups stay anyway, and are not asked for.

    :param folders: ids of backups that have no manifest, or are about to lose it.
    """

    def __init__(
        self, repository: Repository, database: str, folders: Iterable[str], *, cancel: threading.Event, log: Log
    ) -> None:
        self._repository = repository
        self._database = database
        self._ranges: dict[str, _Ranges] = {backup_id: [] for backup_id in folders}
        self._read: set[str] = set()
        self._all_may_be = False
        self._cancel = cancel
        self._log = log

    def read(self, ids: Sequence[str]) -> None:
        """Read what these backups refer to, as far as it is not known yet: manifests never change.

        :raises AccessDenied: there is no right to read manifests.
        :raises StorageError: S3 failed.
        """
        unread = [backup_id for backup_id in ids if backup_id not in self._read]
        for runs in in_parallel(self._runs_of, unread, cancel=self._cancel):
            for backup_id, ranges in runs.items():
                self._ranges[backup_id] = _union(self._ranges[backup_id], ranges)
        self._read.update(unread)

    def holds(self, key: str) -> bool:
        """True if an object is a run that must stay.

        :param key: relative to the folder that holds the manifests.
        """
        run = parse_run_key(key)
        if run is None:
            return False
        backup_id, number = run
        return self._all_may_be or _is_in(number, self._ranges[backup_id])

    def _runs_of(self, backup_id: str) -> Mapping[str, _Ranges]:
        uri = self._repository.uri(self._repository.manifest_key(self._database, backup_id))
        try:
            manifest = read_manifest(self._repository.client, uri).manifest
        except s3_errors.AccessDenied:
            raise
        except (InputError, IntegrityError) as error:
            is_there = isinstance(error, s3_errors.Unreadable)
            if is_there or self._repository.is_committed(self._database, backup_id):
                self._log.warning("as a backup cannot be read, all runs stay that it may refer to: %s", error)
                self._all_may_be = True
            return {}
        return {folder: ranges for folder, ranges in manifest.runs.items() if folder in self._ranges}


def _union(some: _Ranges, others: _Ranges) -> _Ranges:
    """Both in one, ascending; most nights refer to the same as the night before."""
    if some == others:
        return some
    union: _Ranges = []
    for first, last in sorted(some + others):
        if union and first <= union[-1][1] + 1:
            union[-1] = (union[-1][0], max(last, union[-1][1]))
        else:
            union.append((first, last))
    return union


def _is_in(number: int, ranges: _Ranges) -> bool:
    index = bisect_right(ranges, number, key=lambda one: one[0])
    return index > 0 and number <= ranges[index - 1][1]
