"""The load: definitions by pg_restore, rows by our own COPY, indexes as soon as a table's rows are there."""

from __future__ import annotations

import graphlib
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from airflow_pg_s3.core.errors import Cancelled, CopyError, InputError, IntegrityError
from airflow_pg_s3.core.postgres.archive.table_data import copy_target
from airflow_pg_s3.core.postgres.archive.toc import PRE_DATA, Entry, Toc, list_large_objects
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.databases import run_sql_in
from airflow_pg_s3.core.postgres.encodings import psycopg_knows
from airflow_pg_s3.core.reporting import byte_progress
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.copy_session import LoadingOptions, LoadingSession, loading_options
from airflow_pg_s3.core.restore.load.lanes import Lanes, Task
from airflow_pg_s3.core.restore.load.pg_restore import PgRestore
from airflow_pg_s3.core.restore.load.plan import Copy, made_by, make_plan
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive

# Starting pg_restore takes 20 ms, in which twice as many bytes are copied.
_BUILD_AT_ONCE_BYTES = 32 << 20
_LARGE_OBJECTS_AT_ONCE = 500
_LARGE_OBJECT_BYTES_AT_ONCE = 8 << 20
# Tables with foreign keys, and the tables that these refer to. Partitioned tables are replaced by their
# partitions, which hold the rows. In a database in SQL_ASCII, names need not be UTF-8.
_FOREIGN_KEYS = """
with names as (
    select c.oid, convert_to(nspname, encoding) as schema, convert_to(relname, encoding) as name
    from pg_class c join pg_namespace n on n.oid = relnamespace,
        (select case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end) e (encoding)
)
select a.schema, a.name, b.schema, b.name
from pg_constraint k
cross join lateral (select relid from pg_partition_tree(conrelid) where isleaf union select conrelid) f (relid)
cross join lateral (select relid from pg_partition_tree(confrelid) where isleaf union select confrelid) t (relid)
join names a on a.oid = f.relid join names b on b.oid = t.relid
where contype = 'f' and conparentid = 0 and f.relid <> t.relid
"""
_Names = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load of an archive's entries into a database.

    :param folder: the archive on S3.
    :param archive: the archive, with all entries to restore.
    :param entries: the entries to restore here, in pg_restore's order; a definer restores the others.
    :param pg_restore: runs of pg_restore, for definitions and the rows of small tables.
    """

    folder: ArchiveFolder
    archive: OpenedArchive
    entries: Sequence[Entry]
    target: ConnectionParameters
    pg_restore: PgRestore
    context: RestoreContext

    def run(self) -> None:
        """Restore all entries.

        :raises InputError: foreign keys of existing tables form a circle; nothing was touched.
        :raises ClientProgramError: pg_restore failed.
        :raises CopyError: PostgreSQL does not accept a table's rows.
        :raises IntegrityError: a member is not what was backed up; nothing of it was committed.
        :raises Cancelled: the restore was told to stop.
        """
        references: Mapping[int, set[int]] = {}
        if self._data_only and not self._options.disables_triggers:
            references = references_between(self.entries, self.archive.toc, self.target)
        made = made_by(self.archive.entries)

        def of_extension(entry: Entry) -> bool:
            return not self._data_only and not any(number in made for number in entry.dependencies)

        plan = make_plan(
            self.archive.toc,
            self.entries,
            made=made,
            is_ours=lambda entry: (
                psycopg_knows(self.archive.toc.encoding)
                and (entry.dump_id in references or is_large(self._member(entry)) or of_extension(entry))
            ),
            builds_at_once=lambda entry: self._member(entry).raw_bytes >= _BUILD_AT_ONCE_BYTES,
            jobs=self._jobs,
        )
        self._run_first(plan.first)
        loading = [self._copy_task(copy, references) for copy in plan.copies]
        loading += self._large_object_tasks(plan.large_objects)
        self._run_tasks(loading, [task for copy in plan.copies for task in self._build_tasks(copy)])
        for run in plan.rest:
            self._run_pg_restore(run.entries, jobs=1 if run.is_serial else self._jobs, cancel=self.context.cancel)

    @property
    def _data_only(self) -> bool:
        return self.context.request.wanted.data_only

    @property
    def _jobs(self) -> int:
        return self.context.request.jobs

    @property
    def _options(self) -> LoadingOptions:
        return loading_options(self.archive, data_only=self._data_only)

    def _run_first(self, entries: Sequence[Entry]) -> None:
        """Create the definitions, run the user's commands, then load the rows of small tables."""
        commands = self.context.request.pre_data_sql
        if commands:
            section_of = self.archive.toc.section_of
            self._run_definitions_and_rows([entry for entry in entries if section_of[entry.dump_id] == PRE_DATA])
            run_sql_in(self.target, commands)
            entries = [entry for entry in entries if section_of[entry.dump_id] != PRE_DATA]
        self._run_definitions_and_rows(entries)

    def _run_definitions_and_rows(self, entries: Sequence[Entry]) -> None:
        if entries:
            self.folder.save([self._member(entry) for entry in entries if entry.kind == "TABLE DATA"])
            self._run_pg_restore(entries, jobs=self._jobs, cancel=self.context.cancel)

    def _run_pg_restore(self, entries: Sequence[Entry], *, jobs: int, cancel: threading.Event) -> None:
        self.pg_restore.run(
            self.folder.folder, jobs=jobs, dump_ids=[entry.dump_id for entry in entries], cancel=cancel
        )

    def _member(self, entry: Entry) -> Member:
        return member_of(entry, self.folder)

    def _run_tasks(
        self, loading: Sequence[Task[LoadingSession]], building: Sequence[Task[LoadingSession]]
    ) -> None:
        if not loading:
            return
        progress = byte_progress(
            self.context.log,
            "loaded",
            lambda: self.folder.read_bytes,
            sum(task.size for task in loading),
            of=" of the large tables",
        )

        def poll() -> None:
            if self.context.cancel.is_set():
                raise Cancelled(f"the restore was stopped; {self.target.database!r} is incomplete")
            progress.tick()

        options = self._options
        lanes = Lanes(self._jobs, lambda: LoadingSession(self.target, options), stop=self.context.stop)
        lanes.run([*loading, *building], poll=poll)
        progress.end()

    def _copy_task(self, copy: Copy, references: Mapping[int, set[int]]) -> Task[LoadingSession]:
        member = self._member(copy.entry)
        return Task(
            key=copy.entry.dump_id,
            size=member.raw_bytes,
            work=partial(copy_table, self.folder, copy, member),
            after={*copy.after, *references.get(copy.entry.dump_id, ())},
        )

    def _build_tasks(self, copy: Copy) -> Iterator[Task[LoadingSession]]:
        before: list[Hashable] = [copy.entry.dump_id]
        for number, entries in enumerate(copy.builds):
            if entries:
                key = ("build", copy.entry.dump_id, number)
                size = self._member(copy.entry).raw_bytes
                yield Task(key=key, size=size, work=partial(self._build, entries), after=list(before))
                if number == 0:
                    # ADD CONSTRAINT takes an exclusive lock; several CREATE INDEX can run at the same time.
                    before.append(key)

    def _build(self, entries: Sequence[Entry], session: LoadingSession) -> None:
        # pg_restore connects instead, so that the number of connections stays the same.
        session.close()
        self._run_pg_restore(entries, jobs=1, cancel=self.context.stop)

    def _large_object_tasks(self, lists: Sequence[Entry]) -> Iterator[Task[LoadingSession]]:
        for number, members in enumerate(grouped(large_objects_in(lists, self.folder))):
            yield Task(
                key=("large objects", number),
                size=sum(member.raw_bytes for _, member in members),
                work=partial(fill_large_objects, self.folder, members),
            )


def references_between(entries: Iterable[Entry], toc: Toc, target: ConnectionParameters) -> dict[int, set[int]]:
    """Read the target's foreign keys, and find out which data must be loaded first.

    :return: dump ids of the data on either side of a foreign key, each with the ids of the data to load before it.
    :raises InputError: foreign keys form a circle.
    """
    data_of: dict[_Names, list[int]] = {}
    for entry in entries:
        if entry.kind == "TABLE DATA":
            table = copy_target(entry)
            data_of.setdefault(_decoded(table.schema, table.name, toc.codec), []).append(entry.dump_id)
    references: dict[int, set[int]] = {}
    with target.connect() as connection:
        for schema, name, to_schema, to_name in connection.execute(_FOREIGN_KEYS, binary=True):
            needed = data_of.get(_decoded(to_schema, to_name, "utf-8"), [])
            for data in data_of.get(_decoded(schema, name, "utf-8"), []):
                references.setdefault(data, set()).update(needed)
            references.update({number: references.get(number, set()) for number in needed})
    try:
        list(graphlib.TopologicalSorter(references).static_order())
    except graphlib.CycleError as error:
        names = " and ".join(f"{toc.by_id[n].schema}.{toc.by_id[n].name}" for n in sorted(set(error.args[1])))
        raise InputError(
            f"data_only: foreign keys of {names} refer to each other, so that neither can be loaded first: "
            'give pg_restore_options=["--disable-triggers"], which takes a superuser'
        ) from error
    return references


def on_one_lane(
    target: ConnectionParameters,
    options: LoadingOptions,
    work: Callable[[LoadingSession], None],
    *,
    cancel: threading.Event,
    stop: threading.Event,
    cancelled: str,
) -> None:
    """Call a function with a session on another thread, so that it can be cancelled while it waits for a lock.

    :param stop: set when the work fails or is cancelled.
    :param cancelled: the message of `Cancelled`.
    :raises Cancelled: `cancel` was set.
    """

    def poll() -> None:
        if cancel.is_set():
            raise Cancelled(cancelled)

    lanes = Lanes(1, lambda: LoadingSession(target, options), stop=stop)
    lanes.run([Task(key="all", size=0, work=work)], poll=poll)


def is_large(member: Member) -> bool:
    """True if a session of ours loads a member: for small ones, which are in packs, pg_restore is faster."""
    return not member.packed


def member_of(entry: Entry, archive: ArchiveFolder) -> Member:
    """Return the member that holds a table's rows.

    :raises IntegrityError: the manifest has no such member.
    """
    member = archive.members.get(entry.file)
    if member is None:
        raise IntegrityError(f"the manifest has no member for the table data {entry.schema}.{entry.name}")
    return member


def copy_table(archive: ArchiveFolder, copy: Copy, member: Member, session: LoadingSession) -> None:
    """Load a table's rows; raises as `LoadingSession.copy`."""
    name = f"{copy.entry.schema}.{copy.entry.name}"
    try:
        session.copy(copy.target, partial(archive.read, member), name=name, is_new=copy.is_new)
    except CopyError as error:
        if not archive.toc.is_of_extension(copy.entry):
            raise
        advised = CopyError(error.table, error.said, error.sqlstate, is_of_extension=True)
        raise advised.with_traceback(error.__traceback__) from None


def large_objects_in(lists: Iterable[Entry], archive: ArchiveFolder) -> Iterator[tuple[int, Member]]:
    """Yield oid and member of each large object in the ``BLOBS`` entries.

    :raises IntegrityError: a list of large objects is not what was backed up, or names a file that the manifest
        lacks.
    """
    for entry in lists:
        archive.save([member_of(entry, archive)])
        for oid, name in list_large_objects(archive.folder / entry.file):
            if name not in archive.members:
                raise IntegrityError(f"the manifest has no member for the large object {oid}")
            yield oid, archive.members[name]


def fill_large_objects(
    archive: ArchiveFolder, members: Sequence[tuple[int, Member]], session: LoadingSession
) -> None:
    """Fill large objects; each ends up complete or empty."""
    ((oid, first), *others) = members
    if not others:
        session.fill_large_object(oid, partial(archive.read, first))
        return
    contents = []
    for number, member in members:
        pieces: list[bytes] = []
        archive.read(member, pieces.append)
        contents.append((number, b"".join(pieces)))
    session.fill_large_objects(contents)


def grouped(found: Iterable[tuple[int, Member]]) -> Iterator[list[tuple[int, Member]]]:
    """Group large objects: small ones share a round trip, in the order of their packs."""
    group: list[tuple[int, Member]] = []
    size = 0
    for oid, member in found:
        if member.raw_bytes > _LARGE_OBJECT_BYTES_AT_ONCE or not member.packed:
            yield [(oid, member)]
            continue
        if group and (
            len(group) == _LARGE_OBJECTS_AT_ONCE or size + member.raw_bytes > _LARGE_OBJECT_BYTES_AT_ONCE
        ):
            yield group
            group, size = [], 0
        group.append((oid, member))
        size += member.raw_bytes
    if group:
        yield group


def _decoded(schema: bytes, name: bytes, codec: str) -> _Names:
    return schema.decode(codec, errors="surrogateescape"), name.decode(codec, errors="surrogateescape")
