"""The manifest: the record that makes a set of objects a backup. docs/format.md describes it for others.

It is read from outside and trusted with nothing: names and keys must stay within the backup's own folder.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.record import Count, Record, SealError, Sha256, check_seal, sealed

FORMAT = 1
BackupId = Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}$")]
MemberName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=255)]
LongOption = Annotated[str, Field(pattern=r"^--[a-z0-9-]+$", max_length=63)]
GLOBALS = "globals.sql"
_RUN_KEY = re.compile(r"([0-9]{8}T[0-9]{6}Z-[0-9a-f]{6})/([0-9]{6,10})\.zst(?:\.age)?")


class Dump(Record):
    """How pg_dump was called.

    :param left_out_by: those of the options that left something out, by their long names; none: all is there.
    :param lc_monetary: in which locale money is written; None: the source database's, if there is any money.
    :param has_globals: whether `GLOBALS` is among the members.
    """

    pg_dump_version: Annotated[str, Field(pattern=r"^[0-9]{1,3}([^0-9]|$)")]
    options: list[str]
    left_out_by: list[LongOption] = Field(default_factory=list)
    lc_monetary: Literal["C"] | None = None
    has_globals: bool = False
    jobs: int


class Compression(Record):
    """How stored objects are compressed."""

    method: Literal["zstd"]
    level: int


class Encryption(Record):
    """How stored objects are encrypted, after compression."""

    method: Literal["age"]
    recipients: list[str]


class Producer(Record):
    """Who made the backup."""

    tool: str
    version: str
    dag_id: str | None = None
    task_id: str | None = None
    run_id: str | None = None
    map_index: int | None = None
    try_number: int | None = None


class Table(Record):
    """The table whose data a member is.

    :param columns: in the order of the dump's ``COPY``.
    :param through_root: the table named is the root of a partition whose data the member is. pg_dump loads a
        partition so if its rows may belong into another one elsewhere, as hashes of enums differ.
    """

    schema_name: str = Field(alias="schema")
    name: str
    columns: list[str]
    rows: Count
    through_root: bool = False


class ObjectRecord(Record):
    """One object.

    :param key: relative to the folder that holds the manifest.
    """

    key: str
    stored_bytes: Annotated[int, Field(ge=1, lt=1 << 63)]


class Chunking(Record):
    """How large members are cut into chunks. Another way, or another average, makes other chunks of the same data.

    :param method: the algorithm.
    :param average_bytes: what it was asked for.
    """

    method: str
    average_bytes: Count


class MembersFile(Record):
    """The file that lists the members, ``<backup id>/members.json.zst``.

    :param stored_bytes: its length.
    :param raw_bytes: what it unpacks to.
    :param sha256: of the file as it is stored.
    """

    stored_bytes: Count
    raw_bytes: Count
    sha256: Sha256


RunNumber = Annotated[int, Field(ge=1, lt=1 << 31)]


class Manifest(Record):
    """One complete backup.

    :param labels: what the user said of it.
    :param created_at: when the dump began, by the source server's clock.
    :param raw_bytes: sum over the members, as pg_dump wrote them.
    :param stored_bytes: sum over the distinct chunks and the packs that it consists of, in whatever folder.
    :param new_stored_bytes: those of them that this backup has stored itself.
    :param chunks: distinct chunks that it consists of.
    :param new_chunks: those of them that this backup has stored itself.
    :param packs: all are in the backup's own folder.
    :param runs: numbers of the runs that it refers to, by the id of the backup in whose folder they are, its own
        among them; as ranges, first and last, ascending.
    """

    format: Literal[1]
    backup_id: BackupId
    database: str
    created_at: AwareDatetime
    duration_seconds: float
    labels: dict[str, str] = Field(default_factory=dict)
    server: Server
    dump: Dump
    compression: Compression
    encryption: Encryption | None
    chunking: Chunking
    producer: Producer
    raw_bytes: Count
    stored_bytes: Count
    new_stored_bytes: Count
    chunks: Count
    new_chunks: Count
    tables: Count
    rows: Count
    members: MembersFile
    packs: list[ObjectRecord]
    runs: dict[BackupId, list[tuple[RunNumber, RunNumber]]]

    @model_validator(mode="after")
    def _is_closed(self) -> Manifest:
        own = re.compile(rf"{re.escape(self.backup_id)}/[A-Za-z0-9_][A-Za-z0-9_.-]*")
        for record in self.packs:
            if not own.fullmatch(record.key):
                raise ValueError(f"the object {record.key!r} is outside the backup's own folder")
        if len({record.key for record in self.packs}) != len(self.packs):
            raise ValueError("an object is listed twice")
        for backup_id, ranges in self.runs.items():
            before = 0
            for first, last in ranges:
                if not before < first <= last:
                    raise ValueError(f"the runs of {backup_id} are not ranges that ascend")
                before = last
        return self

    @property
    def members_key(self) -> str:
        """Key of the file that lists the members, relative to the folder that holds the manifest."""
        return members_key(self.backup_id)

    def object_keys(self) -> Iterator[str]:
        """Yield the keys of all objects that it refers to, in whatever folder, relative to the manifest's."""
        yield self.members_key
        for record in self.packs:
            yield record.key
        is_encrypted = self.encryption is not None
        for backup_id, ranges in self.runs.items():
            for first, last in ranges:
                for number in range(first, last + 1):
                    yield run_key(backup_id, number, is_encrypted=is_encrypted)

    def refers_to(self, key: str) -> bool:
        """True if this is the key of an object that it refers to, relative to the manifest's folder."""
        return (
            key == self.members_key or any(key == record.key for record in self.packs) or self.refers_to_run(key)
        )

    def refers_to_run(self, key: str) -> bool:
        """True if this is the key of a run that it refers to, relative to the manifest's folder."""
        found = parse_run_key(key)
        if found is None or key != run_key(*found, is_encrypted=self.encryption is not None):
            return False
        backup_id, number = found
        ranges = self.runs.get(backup_id, [])
        at = bisect.bisect_right(ranges, number, key=lambda numbers: numbers[0])
        return at > 0 and number <= ranges[at - 1][1]

    def to_json(self) -> bytes:
        """Serialise, for people as well, and seal."""
        return sealed(self.model_dump_json(by_alias=True, indent=1))


def members_key(backup_id: str) -> str:
    """Key of the file that lists a backup's members, relative to the manifest's folder."""
    return f"{backup_id}/members.json.zst"


def run_key(backup_id: str, number: int, *, is_encrypted: bool) -> str:
    """Key of a run, relative to the manifest's folder.

    :param backup_id: of the backup that has stored it.
    :param number: from 1.
    """
    return f"{backup_id}/{number:06d}.zst{'.age' if is_encrypted else ''}"


def parse_run_key(key: str) -> tuple[str, int] | None:
    """Which backup has stored a run, and its number; None if the key is no run's.

    :param key: relative to the manifest's folder.
    """
    match = _RUN_KEY.fullmatch(key)
    return (match.group(1), int(match.group(2))) if match else None


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges, first and last, that hold these numbers, ascending."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def parse(data: bytes, *, where: str) -> Manifest:
    """Read a manifest.

    :param where: its URI, for messages.
    :raises InputError: a format that this version doesn't know.
    :raises IntegrityError: not a manifest, a damaged or a hostile one.
    """
    try:
        header = _Header.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"{where} is not a manifest: {first_problem(error)}") from error
    if header.format != FORMAT:
        raise InputError(
            f"{where} has format {header.format}, and this version of airflow-provider-pg-s3 reads format "
            f"{FORMAT}: upgrade it"
        )
    try:
        check_seal(data)
        return Manifest.model_validate_json(data)
    except SealError as error:
        raise IntegrityError(f"{where} is refused: {error}") from error
    except ValidationError as error:
        raise IntegrityError(f"{where} is refused: {first_problem(error)}") from error


class _Header(Record):
    format: int


def first_problem(error: ValidationError) -> str:
    """What pydantic found first, without the input."""
    problem: Any = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
