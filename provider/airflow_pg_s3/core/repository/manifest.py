"""The manifest: the record that makes a set of objects a backup. docs/format.md describes it for others.

It is read from outside and trusted with nothing: names and keys must stay within the backup's own folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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


class Dump(Record):
    """How pg_dump was called.

    :param left_out_by: those of the options that left something out, by their long names; none: all is there.
    :param lc_monetary: in which locale money is written; None: the source database's, if there is any money.
    """

    pg_dump_version: Annotated[str, Field(pattern=r"^[0-9]{1,3}([^0-9]|$)")]
    options: list[str]
    left_out_by: list[LongOption] = Field(default_factory=list)
    lc_monetary: Literal["C"] | None = None
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
    :param content_sha256: of what ``COPY table (columns) TO STDOUT`` sends with pg_dump's settings.
    :param through_root: the table named is the root of a partition whose data the member is. pg_dump loads a
        partition so if its rows may belong into another one elsewhere, as hashes of enums differ.
    """

    schema_name: str = Field(alias="schema")
    name: str
    columns: list[str]
    rows: Count
    content_sha256: Sha256
    through_root: bool = False


class ObjectRecord(Record):
    """One object.

    :param key: relative to the folder that holds the manifest.
    """

    key: str
    stored_bytes: Annotated[int, Field(ge=1, lt=1 << 63)]


class Member(Record):
    """One file of pg_dump's directory archive.

    :param objects: the member alone, in volumes; or one pack that holds it beside others.
    :param packed: whether `objects` is a pack.
    """

    name: MemberName
    objects: Annotated[list[str], Field(min_length=1)]
    packed: bool
    raw_bytes: Count
    sha256: Sha256
    table: Table | None = None


class Manifest(Record):
    """One complete backup.

    :param labels: what the user said of it.
    :param created_at: when the dump began, by the source server's clock.
    :param raw_bytes: sum over the members, as pg_dump wrote them.
    :param stored_bytes: sum over the objects.
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
    producer: Producer
    raw_bytes: Count
    stored_bytes: Count
    tables: Count
    rows: Count
    objects: list[ObjectRecord]
    members: list[Member]

    @model_validator(mode="after")
    def _is_closed(self) -> Manifest:
        own = re.compile(rf"{re.escape(self.backup_id)}/[A-Za-z0-9_][A-Za-z0-9_.-]*")
        keys = {record.key for record in self.objects}
        for key in keys:
            if not own.fullmatch(key):
                raise ValueError(f"the object {key!r} is outside the backup's own folder")
        names = [member.name for member in self.members]
        if len(keys) != len(self.objects) or len(set(names)) != len(names):
            raise ValueError("an object or a member is listed twice")
        for member in self.members:
            if not keys.issuperset(member.objects):
                raise ValueError(f"the member {member.name!r} is in an object that is not listed")
            if member.table is not None and not re.fullmatch(r"\d{1,10}\.dat", member.name):
                raise ValueError(f"the member {member.name!r} cannot be the data of a table")
            if ".toc." in member.name:
                # pg_restore would unpack a list of large objects that we have not looked into.
                raise ValueError(f"the member {member.name!r} is none that pg_dump writes")
            if member.packed and len(member.objects) != 1 and not _is_volumes(member.objects):
                raise ValueError(f"the member {member.name!r} is in more than one pack")
        if "toc.dat" not in names:
            raise ValueError("the archive's toc.dat is missing")
        return self

    def to_json(self) -> bytes:
        """Serialise, for people as well, and seal."""
        return sealed(self.model_dump_json(by_alias=True, indent=1))

    def packs(self) -> Iterator[tuple[tuple[str, ...], list[Member]]]:
        """Yield each pack's objects with the members in it."""
        packs: dict[tuple[str, ...], list[Member]] = {}
        for member in self.members:
            if member.packed:
                packs.setdefault(tuple(member.objects), []).append(member)
        yield from packs.items()


def parse(data: bytes, *, where: str) -> Manifest:
    """Read a manifest.

    :param where: its URI, for messages.
    :raises InputError: a format that this version doesn't know.
    :raises IntegrityError: not a manifest, a damaged or a hostile one.
    """
    try:
        header = _Header.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"{where} is not a manifest: {_first(error)}") from error
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
        raise IntegrityError(f"{where} is refused: {_first(error)}") from error


class _Header(Record):
    format: int


def _is_volumes(objects: list[str]) -> bool:
    return all(key.startswith(objects[0] + ".") for key in objects[1:])


def _first(error: ValidationError) -> str:
    problem: Any = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
