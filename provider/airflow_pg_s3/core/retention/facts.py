"""What a prune has done, for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.retention.prune import Pruned


def facts_of(repository: Repository, done: Sequence[Pruned], *, listed: int | None = None) -> dict[str, Any]:
    """Say what was done to each backup, in plain values: lists, newest first, and how many there are of each.

    :param listed: how many entries of each list there are at most.
    """
    lists: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("kept", "deleted", "protected", "unreadable", "orphans")
    }
    for pruned in done:
        leftovers = {leftover.backup_id: leftover for leftover in pruned.leftovers}
        for decision in pruned.decisions:
            key = repository.manifest_key(pruned.database, decision.backup_id)
            entry = _entry(repository.uri(key), pruned.database, decision.backup_id, decision.reasons)
            if decision.outcome == "deleted":
                leftover = leftovers.get(decision.backup_id)
                entry["freed_bytes"] = 0 if leftover is None else leftover.freed_bytes
            lists[decision.outcome].append(entry)
        for orphan in reversed(pruned.orphans):
            folder = f"{repository.base(pruned.database)}{orphan.backup_id}/"
            entry = _entry(repository.uri(folder), pruned.database, orphan.backup_id, [orphan.reason])
            if orphan.outcome == "deleted":
                lists["orphans"].append(entry | {"freed_bytes": orphan.freed_bytes})
            elif orphan.outcome == "protected":
                lists["protected"].append(entry)
    return {
        "uri": repository.root,
        **{name: list(islice(entries, listed)) for name, entries in lists.items()},
        "counts": {name: len(entries) for name, entries in lists.items()},
        "freed_bytes": sum(pruned.freed_bytes for pruned in done),
        "needed_bytes": sum(pruned.needed_bytes for pruned in done),
        "postponed": {pruned.database: pruned.postponed for pruned in done if pruned.postponed is not None},
    }


def _entry(uri: str, database: str, backup_id: str, reasons: Iterable[str]) -> dict[str, Any]:
    return {"uri": uri, "database": database, "backup_id": backup_id, "reasons": list(reasons)}
