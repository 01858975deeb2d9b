"""Divides a restore into runs of pg_restore and, between them, the rows that our own sessions load.

Definitions come first, with the rows of small tables, of which pg_restore copies thousands in a second; then large
tables and large objects, by sessions of our own, with their indexes as soon as the rows are there; then the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from airflow_pg_s3.core.postgres.archive.table_data import CopyTarget, copy_target
from airflow_pg_s3.core.postgres.archive.toc import POST_DATA, Entry, Toc

PRIVILEGES = ("ACL", "DEFAULT ACL")
# What pg_restore itself leaves for after the privileges (RESTORE_PASS_POST_ACL in pg_backup_archiver.c), or may.
_AFTER_PRIVILEGES = ("EVENT TRIGGER", "MATERIALIZED VIEW DATA", "STATISTICS DATA")
_ABOUT_ANOTHER = ("COMMENT", "SECURITY LABEL")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A table whose rows a session of ours loads.

    :param entry: its ``TABLE DATA``.
    :param target: what COPY fills.
    :param is_new: this restore creates the table that COPY fills.
    :param after: ``TABLE DATA`` to load before.
    :param builds: what is built as soon as the rows are there, each list by a run of pg_restore, the first before
        the others.
    """

    entry: Entry
    target: CopyTarget
    is_new: bool
    after: Sequence[int] = ()
    builds: Sequence[Sequence[Entry]] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A restore.

    :param first: for the first run of pg_restore.
    :param copies: for sessions of ours.
    :param large_objects: ``BLOBS``, for sessions of ours, too.
    :param rest: for the last runs, in this order.
    """

    first: list[Entry]
    copies: list[Copy]
    large_objects: list[Entry]
    rest: list[Run]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of pg_restore; with one job if `is_serial`."""

    entries: list[Entry]
    is_serial: bool = False


def make_plan(
    toc: Toc,
    entries: Sequence[Entry],
    *,
    made: Collection[int],
    is_ours: Callable[[Entry], bool],
    builds_at_once: Callable[[Entry], bool],
    jobs: int,
) -> Plan:
    """Divide a restore.

    :param entries: what is restored, in the order of restoring.
    :param made: dump ids of the tables that the restore makes, as `made_by` tells.
    :param is_ours: whether a session of ours loads this ``TABLE DATA``.
    :param builds_at_once: whether it is worth a run of pg_restore to build its indexes at once.
    """
    copies = [_copy(entry, toc, made) for entry in entries if entry.kind == "TABLE DATA" and is_ours(entry)]
    copies = _in_order_of_extensions(copies, made)
    ours = {copy.entry.dump_id for copy in copies}
    large_objects = [entry for entry in entries if entry.kind == "BLOBS"]
    first: list[Entry] = []
    rest: list[Entry] = []
    for entry in entries:
        if entry.dump_id in ours or entry.kind == "BLOBS":
            continue
        is_early = toc.section_of[entry.dump_id] != POST_DATA and not _is_last(entry)
        (first if is_early else rest).append(entry)
    builds = _builds(toc, rest, [copy for copy in copies if builds_at_once(copy.entry)])
    built = {entry.dump_id for runs in builds.values() for run in runs for entry in run}
    return Plan(
        first=first,
        copies=[replace(copy, builds=builds.get(copy.entry.dump_id, ())) for copy in copies],
        large_objects=large_objects,
        rest=divide([entry for entry in rest if entry.dump_id not in built], jobs=jobs),
    )


def made_by(entries: Sequence[Entry]) -> set[int]:
    """Dump ids of the tables that a restore of these entries makes, foreign ones included."""
    return {entry.dump_id for entry in entries if entry.kind in ("TABLE", "FOREIGN TABLE")}


def rows_of_extensions(entries: Sequence[Entry]) -> list[Entry]:
    """``TABLE DATA`` of tables that a restore of these entries does not make: extensions do."""
    made = made_by(entries)
    return [entry for entry in entries if entry.kind == "TABLE DATA" and made.isdisjoint(entry.dependencies)]


def divide(entries: Sequence[Entry], *, jobs: int) -> list[Run]:
    """Divide entries into runs of pg_restore, so that GRANTs that need each other do not run at the same time.

    A GRANT that another role than the owner has made runs as that role, which must have got its rights before:
    those on the schema, and those it passes on. ``pg_restore --jobs`` runs all GRANTs at once, in any order, and
    then some fail with "permission denied for schema" (restore_toc_entries_parallel in pg_backup_archiver.c).
    """
    privileges = [entry for entry in entries if entry.kind in PRIVILEGES]
    if jobs == 1 or not any(b"SET SESSION AUTHORIZATION" in entry.definition for entry in privileges):
        runs = [Run(entries=list(entries))]
    else:
        runs = [
            Run(entries=[e for e in entries if e.kind not in PRIVILEGES and not _is_after_privileges(e)]),
            Run(entries=privileges, is_serial=True),
            Run(entries=[entry for entry in entries if _is_after_privileges(entry)]),
        ]
    return [run for run in runs if run.entries]


def _copy(data: Entry, toc: Toc, made: Collection[int]) -> Copy:
    target = copy_target(data)
    names = [text.encode(toc.codec, errors="surrogateescape") for text in (data.schema, data.name)]
    # A table of an extension has no TABLE, and rows of the extension's own. Rows of a partition may be loaded
    # through its root, which others fill as well.
    is_new = [target.schema, target.name] == names and any(
        number in made and toc.by_id[number].kind == "TABLE" for number in data.dependencies
    )
    return Copy(entry=data, target=target, is_new=is_new)


def _is_last(entry: Entry) -> bool:
    return entry.kind in PRIVILEGES or _is_after_privileges(entry)


def _is_after_privileges(entry: Entry) -> bool:
    return entry.kind in _AFTER_PRIVILEGES or (
        entry.kind in _ABOUT_ANOTHER and entry.name.startswith("EVENT TRIGGER ")
    )


def _in_order_of_extensions(copies: Sequence[Copy], made: Collection[int]) -> list[Copy]:
    """Let tables of extensions wait for each other: pg_dump has put them in the order of their foreign keys."""
    if not made:
        return list(copies)  # data alone
    ordered: list[Copy] = []
    before: tuple[int, ...] = ()
    for copy in copies:
        if not any(number in made for number in copy.entry.dependencies):
            copy = replace(copy, after=before)
            before = (copy.entry.dump_id,)
        ordered.append(copy)
    return ordered


def _builds(toc: Toc, rest: Sequence[Entry], copies: Sequence[Copy]) -> Mapping[int, list[list[Entry]]]:
    """What can be built as soon as the rows of one table are there, by the dump id of its data."""
    table_of = {
        number: copy.entry.dump_id
        for copy in copies
        if copy.is_new
        for number in copy.entry.dependencies
        if number in toc.by_id and toc.by_id[number].kind == "TABLE"
    }
    constraints: dict[int, list[Entry]] = {}
    indexes: dict[int, list[Entry]] = {}
    for entry in rest:
        # Whatever else it needs may read other tables: a function, an operator class.
        needed = [number for number in entry.dependencies if number in toc.by_id]
        if len(needed) != 1 or needed[0] not in table_of:
            continue
        data = table_of[needed[0]]
        if entry.kind == "INDEX":
            indexes.setdefault(data, []).append(entry)
        # Without ONLY, it would apply to inheriting tables as well, whose rows may not be loaded yet.
        elif entry.kind == "CONSTRAINT" and entry.definition.startswith(b"ALTER TABLE ONLY "):
            constraints.setdefault(data, []).append(entry)
    return {
        data: [constraints.get(data, []), *([index] for index in indexes.get(data, []))]
        for data in constraints.keys() | indexes.keys()
    }
