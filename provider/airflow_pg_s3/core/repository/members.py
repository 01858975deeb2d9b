"""Members of a backup with their chunks, and the file that lists them. docs/format.md describes it for others.

A line of the file is read at a time, and chunks are kept packed: 100,000 of them take 5 MB.
"""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError, model_validator

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.archive.toc import TOC
from airflow_pg_s3.core.record import Count, Record, Sha256
from airflow_pg_s3.core.repository.manifest import (
    GLOBALS,
    Manifest,
    MemberName,
    MembersFile,
    Table,
    first_problem,
)

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

DIGEST_BYTES = 32
LONGEST_CHUNK_BYTES = 64 << 20
"""No chunk is longer, raw or stored: whoever reads one has room for it."""

_LEVEL = 3
_READ_BYTES = 1 << 20
ChunkBytes = Annotated[int, Field(ge=1, le=LONGEST_CHUNK_BYTES)]


class Chunk(NamedTuple):
    """A piece of a member, compressed by itself.

    :param sha256: of its raw bytes; 32 bytes.
    :param key: of the run that holds it, relative to the manifest's folder.
    :param offset: of its first byte in the run.
    """

    sha256: bytes
    raw_bytes: int
    key: str
    offset: int
    stored_bytes: int


class Extent(NamedTuple):
    """Chunks that follow each other both in a member and in a run: one ranged GET brings them.

    :param key: of the run.
    :param offset: of the first byte of the first one.
    :param stored_bytes: of all of them.
    """

    key: str
    offset: int
    stored_bytes: int
    chunks: list[Chunk]


class Chunks:
    """Chunks in their order, packed into 40 bytes each."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._raw_bytes = array("I")
        self._stored_bytes = array("I")
        # Where runs of neighbours begin: index of the first chunk, key, offset.
        self._extents: list[tuple[int, str, int]] = []
        self._end = ("", 0)  # where a neighbour of the last chunk would be

    def __len__(self) -> int:
        return len(self._raw_bytes)

    def __iter__(self) -> Iterator[Chunk]:
        for extent in self.extents():
            yield from extent.chunks

    def append(self, chunk: Chunk) -> None:
        """Add the next one."""
        if (chunk.key, chunk.offset) != self._end:
            self._extents.append((len(self), sys.intern(chunk.key), chunk.offset))
        self._digests += chunk.sha256
        self._raw_bytes.append(chunk.raw_bytes)
        self._stored_bytes.append(chunk.stored_bytes)
        self._end = (chunk.key, chunk.offset + chunk.stored_bytes)

    def extents(self, at_most_bytes: int | None = None) -> Iterator[Extent]:
        """Yield neighbours together.

        :param at_most_bytes: stored bytes of an extent, unless one chunk has more.
        """
        ends = [*(first for first, _, _ in self._extents[1:]), len(self)]
        for (first, key, offset), end in zip(self._extents, ends, strict=False):
            chunks: list[Chunk] = []
            begin = at = offset
            for index in range(first, end):
                stored_bytes = self._stored_bytes[index]
                if chunks and at_most_bytes is not None and at + stored_bytes - begin > at_most_bytes:
                    yield Extent(key, begin, at - begin, chunks)
                    chunks, begin = [], at
                chunks.append(Chunk(self._digest(index), self._raw_bytes[index], key, at, stored_bytes))
                at += stored_bytes
            yield Extent(key, begin, at - begin, chunks)

    def pieces(self) -> Iterator[tuple[int, str]]:
        """Yield the length and hexadecimal SHA-256 of the raw bytes of each."""
        for index, raw_bytes in enumerate(self._raw_bytes):
            yield raw_bytes, self._digest(index).hex()

    def _digest(self, index: int) -> bytes:
        return bytes(self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])


NO_CHUNKS = Chunks()


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file of pg_dump's directory archive.

    :param pack: key of the pack that holds it; None if it is stored in chunks.
    :param sha256: hexadecimal, of the whole file; None if it is stored in chunks.
    :param chunks: none if it is in a pack.
    """

    name: str
    raw_bytes: int
    table: Table | None = None
    pack: str | None = None
    sha256: str | None = None
    chunks: Chunks = NO_CHUNKS

    @property
    def packed(self) -> bool:
        """True if it is in a pack."""
        return self.pack is not None

    def pieces(self) -> Iterator[tuple[int, str]]:
        """Yield length and hexadecimal SHA-256 of the pieces that it consists of: its chunks, or all of it."""
        if self.sha256 is not None:
            yield self.raw_bytes, self.sha256
        else:
            yield from self.chunks.pieces()


class _ExtentRecord(Record):
    """`Extent` as it is stored; a column each for what its chunks are."""

    key: str
    offset: Count
    sha256: Annotated[list[Sha256], Field(min_length=1)]
    raw_bytes: list[ChunkBytes]
    stored_bytes: list[ChunkBytes]

    @model_validator(mode="after")
    def _is_whole(self) -> _ExtentRecord:
        if not len(self.sha256) == len(self.raw_bytes) == len(self.stored_bytes):
            raise ValueError("its columns differ in length")
        return self


class _MemberRecord(Record):
    """`Member` as it is stored."""

    name: MemberName
    raw_bytes: Count
    table: Table | None = None
    pack: str | None = None
    sha256: Sha256 | None = None
    extents: list[_ExtentRecord] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_one_of_pg_dumps(self) -> _MemberRecord:
        if self.table is not None and not re.fullmatch(r"\d{1,10}\.dat", self.name):
            raise ValueError(f"the member {self.name!r} cannot be the data of a table")
        if ".toc." in self.name:
            # pg_restore would unpack a list of large objects that we have not looked into.
            raise ValueError(f"the member {self.name!r} is none that pg_dump writes")
        if (self.pack is None) == (not self.extents) or (self.pack is None) != (self.sha256 is None):
            raise ValueError(f"the member {self.name!r} must be in one pack, with its digest, or in chunks")
        if self.extents and (self.name.endswith((".toc", TOC)) or self.name == GLOBALS):
            raise ValueError(f"the member {self.name!r} must be in a pack")
        if self.extents and sum(sum(extent.raw_bytes) for extent in self.extents) != self.raw_bytes:
            raise ValueError(f"the chunks of the member {self.name!r} are not as long as it is")
        return self


def write_members(members: Iterable[Member]) -> tuple[bytes, MembersFile]:
    """Make the file that lists the members: a JSON object a line."""
    compressor = zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.compression_level: _LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        }
    )
    stored, raw_bytes = bytearray(), 0
    for member in members:
        line = _record(member).model_dump_json(by_alias=True, exclude_defaults=True).encode() + b"\n"
        raw_bytes += len(line)
        stored += compressor.compress(line)
    stored += compressor.flush()
    record = MembersFile(stored_bytes=len(stored), raw_bytes=raw_bytes, sha256=hashlib.sha256(stored).hexdigest())
    return bytes(stored), record


def parse_members(manifest: Manifest, stored: bytes) -> Iterator[Member]:
    """Read the file that lists the members of a backup.

    :raises IntegrityError: it is not what the manifest speaks of, is damaged or hostile.
    """
    where = manifest.members_key
    if hashlib.sha256(stored).hexdigest() != manifest.members.sha256:
        raise IntegrityError(f"{where} is refused: it is not what was stored, by its SHA-256")
    packs = {record.key for record in manifest.packs}
    names: set[str] = set()
    try:
        for line in _lines(stored, manifest.members.raw_bytes):
            member = _member(_MemberRecord.model_validate_json(line), packs, manifest.refers_to_run)
            if member.name in names:
                raise ValueError(f"the member {member.name!r} is listed twice")
            names.add(member.name)
            yield member
        if TOC not in names:
            raise ValueError("the archive's toc.dat is missing")
    except ValidationError as error:
        raise IntegrityError(f"{where} is refused: {first_problem(error)}") from error
    except (ValueError, zstd.ZstdError) as error:
        raise IntegrityError(f"{where} is refused: {error}") from error


def packs_of(members: Iterable[Member]) -> dict[str, list[Member]]:
    """Members that are in packs, by the key of their pack."""
    packs: dict[str, list[Member]] = {}
    for member in members:
        if member.pack is not None:
            packs.setdefault(member.pack, []).append(member)
    return packs


def runs_of(members: Iterable[Member]) -> dict[str, int]:
    """How many bytes each run must have to hold the chunks of these members."""
    ends: dict[str, int] = {}
    for member in members:
        for extent in member.chunks.extents():
            ends[extent.key] = max(ends.get(extent.key, 0), extent.offset + extent.stored_bytes)
    return ends


def _record(member: Member) -> _MemberRecord:
    return _MemberRecord.model_construct(
        name=member.name,
        raw_bytes=member.raw_bytes,
        table=member.table,
        pack=member.pack,
        sha256=member.sha256,
        extents=[
            _ExtentRecord.model_construct(
                key=extent.key,
                offset=extent.offset,
                sha256=[chunk.sha256.hex() for chunk in extent.chunks],
                raw_bytes=[chunk.raw_bytes for chunk in extent.chunks],
                stored_bytes=[chunk.stored_bytes for chunk in extent.chunks],
            )
            for extent in member.chunks.extents()
        ],
    )


def _member(record: _MemberRecord, packs: set[str], is_run: Callable[[str], bool]) -> Member:
    if record.pack is not None and record.pack not in packs:
        raise ValueError(f"the member {record.name!r} is in a pack that the manifest does not name")
    chunks = Chunks() if record.extents else NO_CHUNKS
    for extent in record.extents:
        if not is_run(extent.key):
            raise ValueError(f"the run {extent.key!r} is none that the manifest names")
        offset = extent.offset
        for sha256, raw, stored in zip(extent.sha256, extent.raw_bytes, extent.stored_bytes, strict=True):
            chunks.append(Chunk(bytes.fromhex(sha256), raw, extent.key, offset, stored))
            offset += stored
    return Member(
        name=record.name,
        raw_bytes=record.raw_bytes,
        table=record.table,
        pack=record.pack,
        sha256=record.sha256,
        chunks=chunks,
    )


def _lines(stored: bytes, raw_bytes: int) -> Iterator[bytes]:
    """Unpack and yield the lines; no more than there should be, whatever a bomb would unpack to."""
    frame = zstd.ZstdDecompressor()
    data, rest, count = stored, b"", 0
    while not frame.eof:
        piece = frame.decompress(data, _READ_BYTES)
        data = b""
        count += len(piece)
        if count > raw_bytes or (not piece and frame.needs_input and not frame.eof):
            break
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest or count != raw_bytes or not frame.eof or frame.unused_data:
        raise ValueError(f"it does not unpack to {raw_bytes} bytes, in lines")
