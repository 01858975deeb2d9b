"""True if the newest backup of a database is young enough."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.reporting import Log, human_age
from airflow_pg_s3.core.repository.catalog import Entry, read_entry
from airflow_pg_s3.core.repository.repository import Repository

BACKUPS_LOOKED_AT = 1000
"""How many backups are looked at, in the search for one that is verified."""


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """What was found.

    :param message: one sentence that names the newest backup.
    :param facts: of the newest backup that counts, in plain values; None if there is none.
    """

    is_fresh: bool
    message: str
    facts: dict[str, Any] | None


def look(repository: Repository, *, database: str, max_age: timedelta, verified_only: bool, log: Log) -> Freshness:
    """Look for the newest backup, and say whether it is young enough, as `Entry.is_within` has it.

    :param verified_only: only a verified one counts.
    :raises InputError: there is no such bucket, or no right to use it.
    :raises StorageError: S3 failed.
    """
    if not database:
        raise InputError("database must be the name of a database, not empty")
    found = search(repository, database, verified_only=verified_only, log=log)
    now = datetime.now(UTC)
    counting, newest = found.counting, found.newest
    what = f"{'verified ' if verified_only else ''}backup of {database!r}"
    is_fresh = counting is not None and counting.is_within(max_age, now)
    if counting is not None:
        within = f"{'within' if is_fresh else 'not within'} {human_age(max_age.total_seconds())}"
        message = f"the newest {what} is {_describe(counting, now)}, {within}"
    else:
        among = f" among the newest {BACKUPS_LOOKED_AT}" if found.was_cut_short else ""
        message = f"there is no {what}{among} in {repository.uri(repository.base(database))}"
    if newest is None:
        message += ": has one been made, and are prefix and name right?"
    elif newest is not counting:
        message += "; the newest of all is" if is_fresh else "; backups are made, but not verified: the newest is"
        message += f" {_describe(newest, now)}"
    return Freshness(is_fresh=is_fresh, message=message, facts=_facts(counting, now) if counting else None)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The newest backup, and the newest one that counts.

    :param was_cut_short: whether there are more than were looked at.
    """

    newest: Entry | None
    counting: Entry | None
    was_cut_short: bool


def search(repository: Repository, database: str, *, verified_only: bool, log: Log) -> Found:
    """Look for the newest backup, and for the newest one that counts.

    :param verified_only: only a verified one counts.
    :raises InputError: there is no such bucket, or no right to use it.
    :raises StorageError: S3 failed.
    """
    newest = None
    looked_at = 0
    for ref in islice(repository.newest_first(database), BACKUPS_LOOKED_AT):
        looked_at += 1
        if newest is not None and not ref.has_evidence:
            continue
        entry = read_entry(repository.client, ref, log)
        newest = newest or entry
        if entry is not None and (entry.is_verified or not verified_only):
            return Found(newest=newest, counting=entry, was_cut_short=False)
    return Found(newest=newest, counting=None, was_cut_short=looked_at == BACKUPS_LOOKED_AT)


def _describe(entry: Entry, now: datetime) -> str:
    age = (now - entry.created_at).total_seconds()
    old = f"{human_age(age)} old" if age >= 0 else f"{human_age(age)} in the future by our clock"
    return f"{entry.backup_id} ({old}, {entry.state(now)}, {entry.ref.uri})"


def _facts(entry: Entry, now: datetime) -> dict[str, Any]:
    return {
        "uri": entry.ref.uri,
        "key": entry.ref.key,
        "backup_id": entry.backup_id,
        "database": entry.database,
        "created_at": entry.created_at.isoformat(),
        "age_seconds": round((now - entry.created_at).total_seconds(), 3),
        "verified": entry.is_verified,
    }
