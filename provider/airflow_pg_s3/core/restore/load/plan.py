"""The plan of a load: runs of pg_restore and, between them, the rows that our own sessions load.

1. Definitions and the rows of small tables: pg_restore copies thousands of these in a second.
2. Large tables and large objects, by sessions of our own. A table's indexes follow as soon as its rows are there.
3. The rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from airflow_pg_s3.core.postgres.archive.table_data import CopyTarget, copy_target
from airflow_pg_s3.core.postgres.archive.toc import POST_DATA, Entry, Toc

PRIVILEGES = ("ACL", "DEFAULT ACL")
# Kinds that pg_restore restores after the privileges, or may (RESTORE_PASS_POST_ACL in pg_backup_archiver.c).
_AFTER_PRIVILEGES = ("EVENT TRIGGER", "MATERIALIZED VIEW DATA", "STATISTICS DATA")
_ABOUT_ANOTHER = ("COMMENT", "SECURITY LABEL")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A table whose rows a session of ours loads.

    :param entry: the table's ``TABLE DATA`` entry.
    :param target: the table that COPY fills.
    :param is_new: whether this restore creates the table that COPY fills.
    :param after: dump ids of ``TABLE DATA`` to load first.
    :param builds: entries to build as soon as the rows are there: each list by one run of pg_restore, the first
        list before the others.
    """

    entry: Entry
    target: CopyTarget
    is_new: bool
    after: Sequence[int] = ()
    builds: Sequence[Sequence[Entry]] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a load.

    :param first: entries for the first run of pg_restore.
    :param copies: tables that our sessions load.
    :param large_objects: ``BLOBS`` entries, whose large objects our sessions fill.
    :param rest: the last runs of pg_restore, in this order.
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
    """Divide a load into its steps.

    :param entries: the entries to restore, in pg_restore's order.
    :param made: dump ids of the tables that the restore creates, as `made_by` returns them.
    :param is_ours: returns whether a session of ours loads a ``TABLE DATA`` entry.
    :param builds_at_once: returns whether a table is large enough for a run of pg_restore that builds its indexes.
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
    """Return the dump ids of the tables that a restore of these entries creates, foreign tables included."""
    return {entry.dump_id for entry in entries if entry.kind in ("TABLE", "FOREIGN TABLE")}


def rows_of_extensions(entries: Sequence[Entry]) -> list[Entry]:
    """Return the ``TABLE DATA`` entries of extensions' tables: no entry creates these."""
    made = made_by(entries)
    return [entry for entry in entries if entry.kind == "TABLE DATA" and made.isdisjoint(entry.dependencies)]


def divide(entries: Sequence[Entry], *, jobs: int) -> list[Run]:
    """Divide entries into runs of pg_restore, so that GRANTs that need each other do not run at the same time.

    A GRANT made by a role other than the owner runs as that role. The role must have its own rights by then: those
    on the schema, and those that it passes on. ``pg_restore --jobs`` runs all GRANTs at once, in any order, so
    that some fail with "permission denied for schema" (restore_toc_entries_parallel in pg_backup_archiver.c).
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
    # An extension's table has no TABLE entry, and holds rows of the extension's own. A partition's rows may be
    # loaded through its root, which other partitions' rows go through as well.
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
    """Make extensions' tables wait for each other, in pg_dump's order, which is that of their foreign keys."""
    if not made:
        return list(copies)  # data_only: every table exists
    ordered: list[Copy] = []
    before: tuple[int, ...] = ()
    for copy in copies:
        if not any(number in made for number in copy.entry.dependencies):
            copy = replace(copy, after=before)
            before = (copy.entry.dump_id,)
        ordered.append(copy)
    return ordered


def _builds(toc: Toc, rest: Sequence[Entry], copies: Sequence[Copy]) -> Mapping[int, list[list[Entry]]]:
    """Return what can be built as soon as a table's rows are there, by the dump id of its ``TABLE DATA``."""
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
        # An entry that needs anything else (a function, an operator class) might read other tables.
        needed = [number for number in entry.dependencies if number in toc.by_id]
        if len(needed) != 1 or needed[0] not in table_of:
            continue
        data = table_of[needed[0]]
        if entry.kind == "INDEX":
            indexes.setdefault(data, []).append(entry)
        # Without ONLY, the constraint also covers inheriting tables, whose rows may not be loaded yet.
        elif entry.kind == "CONSTRAINT" and entry.definition.startswith(b"ALTER TABLE ONLY "):
            constraints.setdefault(data, []).append(entry)
    return {
        data: [constraints.get(data, []), *([index] for index in indexes.get(data, []))]
        for data in constraints.keys() | indexes.keys()
    }
