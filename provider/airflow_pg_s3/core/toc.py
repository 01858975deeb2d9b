"""The table of contents of an archive of pg_dump: what it holds, in which order, and what needs what.

All three formats have the same one: ``toc.dat`` in a directory and at the beginning of a tar archive, and the
beginning of a custom one. Source of the format: PostgreSQL's pg_backup_archiver.c (ReadHead, ReadToc),
pg_backup_directory.c and pg_backup_custom.c.

It comes from outside, and pg_restore opens whatever file is named in it. So what pg_dump would not have written
is refused.
"""

from __future__ import annotations

import mmap
import re
import struct
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow_pg_s3.core.encodings import codec_of
from airflow_pg_s3.core.errors import InputError, IntegrityError

PRE_DATA, DATA, POST_DATA = "pre-data", "data", "post-data"
_SECTIONS = {1: None, 2: PRE_DATA, 3: DATA, 4: POST_DATA}
# What pg_dump of PostgreSQL 12 to 18 writes.
_OLDEST, _NEWEST = (1, 14), (1, 16)
_CUSTOM, _TAR = 1, 3  # a directory's toc.dat says that it is a tar archive's
_FILE_OF_A_TABLE = re.compile(rb"[0-9]{1,10}\.dat")
_FILE_OF_A_LIST = re.compile(rb"blobs(_[0-9]{1,10})?\.toc")
_LARGE_OBJECT = re.compile(rb"([0-9]{1,10}) (blob_[0-9]{1,10}\.dat)")
_ENCODING = re.compile(rb"SET client_encoding = '([\w-]+)';\n?")
_LONGEST_LINE_BYTES = 64
_READ_BYTES = 1 << 20
_INT_BYTES = 4
_INT = struct.Struct("<BI")  # sign and value
_LARGEST_INT = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry: an object, the data of one, or something about one.

    Names are decoded with the archive's encoding; bytes that are not valid in it become surrogates. SQL stays as
    it is, in that encoding; an empty one is nothing to run.

    :param dump_id: its number, by which other entries need it.
    :param kind: ``TABLE``, ``TABLE DATA``, ``FK CONSTRAINT`` …
    :param section: of the archive; None for comments, privileges and the like, which follow what they are about.
    :param name: also what tells it from others of its name: a function's arguments, a constraint's table.
    :param schema: empty if it is in none.
    :param definition: the SQL that creates it.
    :param drop: the SQL that drops it.
    :param copy: the COPY command of a table's data.
    :param access_method: of a table.
    :param relkind: of a relation, as in ``pg_class``; empty before format 1.16.
    :param dependencies: dump ids of what must be restored before. Some may be of no entry.
    :param file: name of the file that has its data; empty in a custom archive.
    """

    dump_id: int
    kind: str
    section: str | None
    schema: str
    name: str
    owner: str
    tablespace: str
    access_method: str
    relkind: str
    catalog_oid: int
    oid: int
    has_data: bool
    definition: bytes
    drop: bytes
    copy: bytes
    dependencies: tuple[int, ...]
    file: str


@dataclass(frozen=True, kw_only=True)
class Toc:
    """A table of contents.

    :param version: of the archive's format, such as (1, 16).
    :param database: its name, in the archive's encoding, as `Entry` has names.
    :param server_version: of the server that was dumped, such as ``15.20 (Debian 15.20-0+deb12u1)``.
    :param encoding: PostgreSQL's name of the archive's encoding.
    :param entries: in the order of restoring.
    """

    version: tuple[int, int]
    database: str
    server_version: str
    pg_dump_version: str
    encoding: str
    entries: list[Entry]

    @property
    def codec(self) -> str:
        """Python codec of the archive's encoding."""
        return codec_of(self.encoding)

    @cached_property
    def by_id(self) -> Mapping[int, Entry]:
        """The entries by their dump ids."""
        return {entry.dump_id: entry for entry in self.entries}

    @cached_property
    def section_of(self) -> Mapping[int, str]:
        """Section of each entry by dump id; what has none of its own goes with what it follows.

        Source: ProcessArchiveRestoreOptions in pg_backup_archiver.c.
        """
        sections, current = {}, PRE_DATA
        for entry in self.entries:
            current = entry.section or current
            sections[entry.dump_id] = current
        return sections


def read_toc(file: Path) -> Toc:
    """Read the table of contents of an archive.

    :param file: a directory archive's toc.dat; a custom or tar archive, or as much of its beginning as holds it.
    :raises IntegrityError: it is damaged, or says what pg_dump would not have written.
    :raises InputError: it is of a version that is not known here.
    """
    if file.stat().st_size == 0:
        raise _damaged("is empty")
    # Not read into memory: what it is made of comes from outside, and so does its size.
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return parse_toc(data)


def parse_toc(data: bytes | mmap.mmap) -> Toc:
    """Read a table of contents from memory; see `read_toc`."""
    begin, end = (0, len(data)) if data[:5] == b"PGDMP" else _place_in_tar(data)
    if data[begin : begin + 5] != b"PGDMP" or end - begin < 11:
        raise _damaged("is damaged")
    version = (data[begin + 5], data[begin + 6])
    if not _OLDEST <= version <= _NEWEST:
        raise InputError(
            f"the archive's table of contents has version {version[0]}.{version[1]}, and this version of "
            f"airflow-provider-pg-s3 knows {_OLDEST[0]}.{_OLDEST[1]} to {_NEWEST[0]}.{_NEWEST[1]}"
        )
    try:
        return _Reader(data, begin + 8, end, version).read()
    except (IndexError, struct.error) as error:
        raise _damaged("ends too early") from error


def check_files(toc: Toc) -> None:
    """Look at the file names in the table of contents of a directory archive.

    :raises IntegrityError: one leads out of the folder, or is none that pg_dump gives.
    """
    for entry in toc.entries:
        pattern = _FILE_OF_A_LIST if entry.kind == "BLOBS" else _FILE_OF_A_TABLE
        if entry.file and not pattern.fullmatch(entry.file.encode(toc.codec, errors="surrogateescape")):
            raise _damaged(f"names the file {entry.file!r}, which pg_dump would not have written")


def read_folder(folder: Path) -> Toc:
    """Read the table of contents of a directory archive, and make sure of all names of files in it.

    :raises IntegrityError: as `read_toc`, `check_files` and `LargeObjectNames`.
    :raises InputError: as `read_toc`.
    """
    toc = read_toc(folder / "toc.dat")
    check_files(toc)
    for path in folder.glob("blobs*.toc"):
        try:
            list_large_objects(path)
        except IntegrityError as error:
            raise IntegrityError(f"the archive's member {path.name} {error}") from error
    return toc


def list_large_objects(file: Path) -> list[tuple[int, str]]:
    """Read a list of large objects (``blobs.toc``, ``blobs_123.toc``): oids, and names of the files.

    :raises IntegrityError: it holds what pg_dump would not have written.
    """
    names = LargeObjectNames()
    with file.open("rb") as opened:
        while chunk := opened.read(_READ_BYTES):
            names.update(chunk)
    names.finish()
    found = _LARGE_OBJECT.findall(file.read_bytes())
    return [(int(oid), name.decode("ascii")) for oid, name in found]


class LargeObjectNames:
    """Takes a list of large objects as its bytes come, and refuses what pg_dump would not have written."""

    def __init__(self) -> None:
        self._rest = b""

    def update(self, chunk: bytes) -> None:
        """Look at the next bytes.

        :raises IntegrityError: a line that pg_dump would not have written.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if not _LARGE_OBJECT.fullmatch(line):
                raise _no_large_object(line)
        if len(self._rest) > _LONGEST_LINE_BYTES:
            raise _no_large_object(self._rest)

    def finish(self) -> None:
        """Say that all bytes have come.

        :raises IntegrityError: the last line has no end; pg_restore would read it all the same.
        """
        if self._rest:
            raise _no_large_object(self._rest)


def _no_large_object(line: bytes) -> IntegrityError:
    return IntegrityError(f"holds {line[:_LONGEST_LINE_BYTES]!r}, which names no large object")


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(f"the archive's table of contents {what}")


def _place_in_tar(data: bytes | mmap.mmap) -> tuple[int, int]:
    """Where toc.dat begins and ends in a tar archive, whose first member it is."""
    try:
        header = tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "ascii", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _damaged("is damaged") from error
    if header.name != "toc.dat":
        raise _damaged("is damaged")
    return tarfile.BLOCKSIZE, min(len(data), tarfile.BLOCKSIZE + header.size)


class _Reader:
    """Reads a table of contents field by field, and nothing that pg_restore might read otherwise."""

    def __init__(self, data: bytes | mmap.mmap, at: int, end: int, version: tuple[int, int]) -> None:
        self._data = data
        self._at = at
        self._end = end
        self._version = version
        self._offset_bytes = 0
        self._is_custom = False

    def read(self) -> Toc:
        self._sizes()
        if self._version >= (1, 15):
            self._byte()  # compression algorithm
        else:
            self._int()  # compression level
        for _ in range(7):
            self._int()  # time of the dump
        database, server_version, pg_dump_version = self._texts(3)
        raw = self._entries()
        if not self._is_custom and self._at != self._end:
            raise _damaged("goes on behind its end")
        encoding = _encoding(raw)
        codec = codec_of(encoding)
        return Toc(
            version=self._version,
            database=_decoded(database, codec),
            server_version=_decoded(server_version, "ascii"),
            pg_dump_version=_decoded(pg_dump_version, "ascii"),
            encoding=encoding,
            entries=[_entry(fields, codec) for fields in raw],
        )

    def _sizes(self) -> None:
        if self._byte() != _INT_BYTES:
            raise _damaged("has integers of another size than pg_dump's")
        self._offset_bytes = self._byte()
        archive_format = self._byte()
        if archive_format not in (_CUSTOM, _TAR):
            raise _damaged(f"is of the unknown format {archive_format}")
        self._is_custom = archive_format == _CUSTOM

    def _entries(self) -> list[dict[str, Any]]:
        count = self._int()
        if count < 0:
            raise _damaged(f"claims to have {count} entries")
        entries, seen = [], set()
        for _ in range(count):
            entry = self._entry()
            if entry["dump_id"] in seen:
                raise _damaged(f"has two entries with the number {entry['dump_id']}")
            seen.add(entry["dump_id"])
            entries.append(entry)
        return entries

    def _entry(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"dump_id": self._int(), "has_data": self._int() != 0}
        fields["catalog_oid"], fields["oid"], fields["name"], fields["kind"] = self._texts(4)
        fields["section"] = self._int()
        (
            fields["definition"],
            fields["drop"],
            fields["copy"],
            fields["schema"],
            fields["tablespace"],
            fields["access_method"],
        ) = self._texts(6)
        fields["relkind"] = self._int() if self._version >= (1, 16) else 0
        fields["owner"], _with_oids = self._texts(2)
        dependencies = []
        while (number := self._text()) is not None:
            dependencies.append(number)
        fields["dependencies"] = dependencies
        if self._is_custom:
            self._at += 1 + self._offset_bytes  # where its data is, if it is known
            fields["file"] = b""
        else:
            fields["file"] = self._text()
        return fields

    def _byte(self) -> int:
        self._at += 1
        if self._at > self._end:
            raise IndexError
        return self._data[self._at - 1]

    def _int(self) -> int:
        sign, value = _INT.unpack_from(self._data, self._at)
        self._at += _INT.size
        # In C it would wrap, and mean something else.
        if sign > 1 or value > _LARGEST_INT or self._at > self._end:
            raise _damaged("holds a number that pg_dump cannot have written")
        number: int = -value if sign else value
        return number

    def _text(self) -> bytes | None:
        return self._texts(1)[0]

    def _texts(self, count: int) -> list[bytes | None]:
        # One loop, as 10,000 tables have a million of them.
        data, at, end, texts = self._data, self._at, self._end, []
        unpack_from, int_size = _INT.unpack_from, _INT.size
        for _ in range(count):
            sign, size = unpack_from(data, at)
            at += int_size
            if sign:
                # NULL is written as -1; pg_restore takes every negative length for it.
                if sign > 1 or size > _LARGEST_INT:
                    raise _damaged("holds a number that pg_dump cannot have written")
                texts.append(None if size else b"")
                continue
            if size > _LARGEST_INT:
                raise _damaged("holds a number that pg_dump cannot have written")
            text = data[at : at + size]
            at += size
            if at > end:
                raise IndexError
            # There the string would end for pg_restore.
            if b"\0" in text:
                raise _damaged("holds a NUL, which PostgreSQL knows in no name")
            texts.append(text)
        self._at = at
        return texts


def _encoding(entries: Iterable[Mapping[str, Any]]) -> str:
    for fields in entries:
        if fields["kind"] == b"ENCODING" and (match := _ENCODING.fullmatch(fields["definition"] or b"")):
            return match.group(1).decode("ascii")
    return "UTF8"


def _entry(fields: Mapping[str, Any], codec: str) -> Entry:
    section = fields["section"]
    if section not in _SECTIONS:
        raise _damaged(f"names a section {section}, which pg_restore does not know")
    return Entry(
        dump_id=fields["dump_id"],
        kind=_decoded(fields["kind"], "ascii"),
        section=_SECTIONS[section],
        schema=_decoded(fields["schema"], codec),
        name=_decoded(fields["name"], codec),
        owner=_decoded(fields["owner"], codec),
        tablespace=_decoded(fields["tablespace"], codec),
        access_method=_decoded(fields["access_method"], codec),
        relkind=chr(fields["relkind"]) if fields["relkind"] > 0 else "",
        catalog_oid=_number(fields["catalog_oid"]),
        oid=_number(fields["oid"]),
        has_data=fields["has_data"],
        definition=fields["definition"] or b"",
        drop=fields["drop"] or b"",
        copy=fields["copy"] or b"",
        dependencies=tuple(_number(number) for number in fields["dependencies"]),
        file=_decoded(fields["file"], codec),
    )


def _number(text: bytes | None) -> int:
    if text is None or not text.isdigit() or len(text) > 10:
        raise _damaged(f"holds {text!r} where a number belongs")
    return int(text)


def _decoded(text: bytes | None, codec: str) -> str:
    return "" if text is None else text.decode(codec, errors="surrogateescape")
