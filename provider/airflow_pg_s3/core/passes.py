"""The passes of pg_restore: GRANTs that need each other must not run at the same time.

A GRANT that another role than the owner has made runs as that role, which must have got its rights before: those
on the schema, and those it passes on. `pg_restore --jobs` runs all GRANTs at once, in any order, and then some
fail with "permission denied for schema" (restore_toc_entries_parallel in PostgreSQL's pg_backup_archiver.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.selection import PRIVILEGES, TocEntry, list_entries, use_list

# What pg_restore itself leaves for after the privileges (RESTORE_PASS_POST_ACL), or may.
_AFTER_PRIVILEGES = ("EVENT TRIGGER", "MATERIALIZED VIEW DATA", "STATISTICS DATA")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One run of pg_restore.

    :param arguments: its options, with what it restores.
    """

    jobs: int
    arguments: Sequence[str]


def passes_of(
    archive: Path,
    *,
    tools: ClientTools,
    jobs: int,
    clean: bool,
    arguments: Sequence[str],
    codec: str,
    folder: Path,
) -> list[Pass]:
    """Divide a restore into runs of pg_restore, of which the first loads all data.

    :param clean: the runs drop what they restore, which must happen in one, in the right order.
    :param codec: Python codec of the archive's encoding.
    :param folder: for the lists of what each run restores.
    """
    entries = list_entries(archive, tools=tools, arguments=arguments, codec=codec) if jobs > 1 else []
    privileges = [entry for entry in entries if entry.kind in PRIVILEGES]
    if not privileges:
        return [Pass(jobs=jobs, arguments=arguments)]
    granting = [*arguments, use_list(folder / "privileges.list", privileges)]
    if b"SET SESSION AUTHORIZATION" not in tools.ask_pg_restore(*granting, "--file=-", str(archive)):
        return [Pass(jobs=jobs, arguments=arguments)]
    if clean:
        return [Pass(jobs=1, arguments=arguments)]
    last = [entry for entry in entries if _is_after_privileges(entry)]
    first = [e for e in entries if e.kind not in PRIVILEGES and not _is_after_privileges(e)]
    runs = [
        Pass(jobs=jobs, arguments=[*arguments, use_list(folder / "first.list", first)]),
        Pass(jobs=1, arguments=granting),
    ]
    if last:
        runs.append(Pass(jobs=jobs, arguments=[*arguments, use_list(folder / "last.list", last)]))
    return runs


def _is_after_privileges(entry: TocEntry) -> bool:
    return entry.kind in _AFTER_PRIVILEGES or (entry.kind == "COMMENT" and "EVENT TRIGGER " in entry.rest)
