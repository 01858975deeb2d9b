"""What a prune has done, for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from airflow_pg_s3.core.retention.prune import Pruned


def facts_of(done: Sequence[Pruned], *, listed: int | None = None) -> dict[str, Any]:
    """Say what was done to each backup, in plain values: lists, newest first, and how many there are of each.

    :param listed: how many entries of each list there are at most.
    """
    decided = [(pruned.database, decision) for pruned in done for decision in pruned.decisions]
    lists = {
        outcome: [
            _entry(database, decision.backup_id, decision.reasons)
            for database, decision in decided
            if decision.outcome == outcome
        ]
        for outcome in ("kept", "deleted", "protected", "unreadable")
    }
    orphans = [(pruned.database, orphan) for pruned in done for orphan in reversed(pruned.orphans)]
    for name, outcome in (("orphans", "deleted"), ("protected", "protected")):
        lists.setdefault(name, []).extend(
            _entry(database, orphan.backup_id, [orphan.reason])
            for database, orphan in orphans
            if orphan.outcome == outcome
        )
    return {
        **{name: list(islice(entries, listed)) for name, entries in lists.items()},
        "counts": {name: len(entries) for name, entries in lists.items()},
        "freed_bytes": sum(pruned.freed_bytes for pruned in done),
    }


def _entry(database: str, backup_id: str, reasons: Iterable[str]) -> dict[str, Any]:
    return {"database": database, "backup_id": backup_id, "reasons": list(reasons)}
