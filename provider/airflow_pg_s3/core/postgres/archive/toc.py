"""The table of contents of an archive of pg_dump: what it holds, in which order, and what needs what.

All three formats have the same one: ``toc.dat`` in a directory and at the beginning of a tar archive, and the
beginning of a custom one. Source of the format: PostgreSQL's pg_backup_archiver.c (ReadHead, ReadToc),
pg_backup_directory.c, pg_backup_tar.c and pg_backup_custom.c.

It comes from outside, and pg_restore opens whatever file is named in it. So what pg_dump would not have written
is refused: pg_restore takes much of that for something else, and some of it for nothing.
"""

from __future__ import annotations

import mmap
import re
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.postgres.encodings import codec_of, decode_name, is_known

PRE_DATA, DATA, POST_DATA = "pre-data", "data", "post-data"
HOLDING_DATA = ("TABLE DATA", "BLOBS")
RELATIONS = ("FOREIGN TABLE", "MATERIALIZED VIEW", "TABLE", "VIEW", "SEQUENCE")
_SECTIONS = {1: None, 2: PRE_DATA, 3: DATA, 4: POST_DATA}
# What pg_dump of PostgreSQL 12 to 18 writes.
_OLDEST, _NEWEST = (1, 14), (1, 16)
_CUSTOM, _TAR = 1, 3  # a directory's toc.dat says that it is a tar archive's
_NEWEST_COMPRESSION = 3  # zstd
_OFFSET_FLAGS = range(1, 4)
_KIND = re.compile(rb"[A-Z]+(?: [A-Z]+)*")
_FILE = re.compile(r"[0-9]{1,10}\.dat|blobs(_[0-9]{1,10})?\.toc")
_LARGE_OBJECT = re.compile(rb"([0-9]{1,10}) (blob_[0-9]{1,10}\.dat)")
_ENCODING = re.compile(rb"SET client_encoding = '(\w+)';\n")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,9}")
_LONGEST_LINE_BYTES = 64
_INT_BYTES, _OFFSET_BYTES = 4, 8
_INT = struct.Struct("<BI")  # sign and value
_LARGEST_INT = (1 << 31) - 1
_LARGEST_OID = (1 << 32) - 1
TOC = "toc.dat"
"""Kinds of entries that have members of data, and no commands without these."""


class TocCutShort(IntegrityError):
    """The table of contents goes on behind the end of what there is."""


class Entry(NamedTuple):
    """One entry: an object, the data of one, or something about one.

    Names are decoded with the archive's encoding; bytes that are not valid in it become surrogates (`Toc.shown`).
    SQL stays as it is, in that encoding; an empty one is nothing to run. Of ``BLOB METADATA`` the definition is a
    list of oids, and of an ACL of ``LARGE OBJECTS`` it speaks of the first: pg_restore makes commands of both.

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
    :param file: name of the file that has its data; empty if it has none, and in a custom archive.
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
    :param is_custom: it is of a custom archive, which has no files.
    :param database: its name, in the archive's encoding, as `Entry` has names.
    :param server_version: of the server that was dumped, such as ``15.20 (Debian 15.20-0+deb12u1)``.
    :param encoding: PostgreSQL's name of the archive's encoding.
    :param entries: in the order of restoring.
    """

    version: tuple[int, int]
    is_custom: bool
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

    def is_of_extension(self, data: Entry) -> bool:
        """Whether the table of a ``TABLE DATA`` comes with an extension; of which one, no archive says."""
        needed = [self.by_id[number].kind for number in data.dependencies if number in self.by_id]
        return self._has_extensions and not {"TABLE", "FOREIGN TABLE"}.intersection(needed)

    @cached_property
    def _has_extensions(self) -> bool:
        return any(entry.kind == "EXTENSION" for entry in self.entries)

    def shown(self, name: str) -> str:
        """Return a name of an entry as manifests have it, and people see it.

        :param name: as `Entry` has it, perhaps with surrogates.
        """
        return name if name.isascii() else decode_name(name.encode(self.codec, "surrogateescape"), self.codec)


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
    version, revision = (data[begin + 5], data[begin + 6]), data[begin + 7]
    if not _OLDEST <= version <= _NEWEST or revision:
        raise InputError(
            f"the archive's table of contents has version {'.'.join(map(str, data[begin + 5 : begin + 8]))}, and "
            f"this version of airflow-provider-pg-s3 knows {_OLDEST[0]}.{_OLDEST[1]} to {_NEWEST[0]}.{_NEWEST[1]}"
            + (": upgrade it" if version > _NEWEST else "")
        )
    try:
        return _Reader(data, begin + 8, end, version).read()
    except (IndexError, struct.error) as error:
        raise TocCutShort("the archive's table of contents ends too early") from error


def check_files(toc: Toc) -> None:
    """Look at the file names in the table of contents of a directory archive.

    :raises IntegrityError: it is of another format, or names a file that pg_dump would not have.
    """
    if toc.is_custom:
        raise _damaged("is that of a custom archive")
    for entry in toc.entries:
        if entry.file != _file_of(entry) and (entry.kind != "BLOBS" or entry.file != "blobs.toc"):
            raise _damaged(f"names the file {entry.file!r}, which pg_dump would not have written")


def _file_of(entry: Entry) -> str:
    if not entry.has_data:
        return ""
    # Before PostgreSQL 17 there was one list of large objects, blobs.toc.
    return f"blobs_{entry.dump_id}.toc" if entry.kind == "BLOBS" else f"{entry.dump_id}.dat"


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
    data = file.read_bytes()
    names = LargeObjectNames()
    names.update(data)
    names.finish()
    return [(int(oid), name.decode("ascii")) for oid, name in _LARGE_OBJECT.findall(data)]


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
    if header.name != "toc.dat" or header.type != tarfile.REGTYPE:
        raise _damaged("is damaged")
    return tarfile.BLOCKSIZE, min(len(data), tarfile.BLOCKSIZE + header.size)


class _Reader:
    """Reads a table of contents field by field, and nothing that pg_restore might read otherwise."""

    def __init__(self, data: bytes | mmap.mmap, at: int, end: int, version: tuple[int, int]) -> None:
        self._data = data
        self._at = at
        self._end = end
        self._version = version
        self._is_custom = False
        self._codec = ""
        # Of owners, schemas and the like there are few.
        self._names: dict[bytes | None, str] = {None: ""}

    def read(self) -> Toc:
        self._head()
        database, server_version, pg_dump_version = self._texts(3)
        count = self._int()
        if count < 1:
            raise _damaged(f"claims to have {count} entries")
        encoding = self._encoding()
        self._codec = codec_of(encoding)
        entries = [self._entry() for _ in range(count)]
        if len({entry.dump_id for entry in entries}) < count:
            raise _damaged("has two entries of one number")
        if not self._is_custom and self._at != self._end:
            raise _damaged("goes on behind its end")
        return Toc(
            version=self._version,
            is_custom=self._is_custom,
            database=self._decoded(database),
            server_version=self._decoded(server_version),
            pg_dump_version=self._decoded(pg_dump_version),
            encoding=encoding,
            entries=entries,
        )

    def _head(self) -> None:
        if (self._byte(), self._byte()) != (_INT_BYTES, _OFFSET_BYTES):
            raise _damaged("has numbers of another size than pg_dump's")
        archive_format = self._byte()
        if archive_format not in (_CUSTOM, _TAR):
            raise _damaged(f"is of the unknown format {archive_format}")
        self._is_custom = archive_format == _CUSTOM
        if self._version < (1, 15):
            self._int()  # level of compression
        elif (algorithm := self._byte()) > _NEWEST_COMPRESSION:
            raise _damaged(f"names the unknown compression {algorithm}")
        for _ in range(7):
            self._int()  # time of the dump

    def _encoding(self) -> str:
        """Look ahead into the first entry, which pg_dump has for this, as names cannot be read without it."""
        at, self._codec = self._at, "utf-8"
        first = self._entry()
        self._at = at
        match = _ENCODING.fullmatch(first.definition) if first.kind == "ENCODING" else None
        if match is None or not is_known(encoding := match.group(1).decode("ascii", errors="replace")):
            raise _damaged("does not begin with an encoding that PostgreSQL knows")
        return encoding

    def _entry(self) -> Entry:
        dump_id, has_data = self._int(), self._int()
        if dump_id < 1 or has_data not in (0, 1):
            raise _damaged(f"has an entry of the number {dump_id} with data {has_data}")
        catalog_oid, oid, name, kind = self._texts(4)
        section = self._int()
        definition, drop, copy, schema, tablespace, access_method = self._texts(6)
        relkind = self._int() if self._version >= (1, 16) else 0
        owner, with_oids = self._texts(2)
        if kind is None or not _KIND.fullmatch(kind) or name is None or section not in _SECTIONS:
            raise _damaged(f"has an entry {dump_id} of the kind {kind!r}, name {name!r} and section {section}")
        if not 0 <= relkind < 128 or with_oids != b"false":
            raise _damaged(f"has an entry {dump_id} of the relkind {relkind} and with OIDs {with_oids!r}")
        dependencies = []
        while (number := self._text()) is not None:
            dependencies.append(_number(number, 1, _LARGEST_INT))
        return Entry(
            dump_id,
            self._repeated(kind),
            _SECTIONS[section],
            self._repeated(schema),
            self._decoded(name),
            self._repeated(owner),
            self._repeated(tablespace),
            self._repeated(access_method),
            chr(relkind) if relkind else "",
            _number(catalog_oid, 0, _LARGEST_OID),
            _number(oid, 0, _LARGEST_OID),
            has_data == 1,
            definition or b"",
            drop or b"",
            copy or b"",
            tuple(dependencies),
            self._file(),
        )

    def _file(self) -> str:
        if self._is_custom:
            if self._byte() not in _OFFSET_FLAGS:
                raise _damaged("says in no way of pg_dump where an entry's data is")
            self._at += _OFFSET_BYTES
            if self._at > self._end:
                raise IndexError
            return ""
        name = self._text()
        if name is None:
            raise _damaged("has an entry that does not say whether it has a file")
        file = name.decode("ascii", errors="backslashreplace")
        if file and not _FILE.fullmatch(file):
            raise _damaged(f"names the file {file!r}, which pg_dump would not have written")
        return file

    def _byte(self) -> int:
        self._at += 1
        if self._at > self._end:
            raise IndexError
        return self._data[self._at - 1]

    def _int(self) -> int:
        sign, value = _INT.unpack_from(self._data, self._at)
        self._at += _INT.size
        if self._at > self._end:
            raise IndexError
        # In C it would wrap, and mean something else.
        if sign > 1 or value > _LARGEST_INT:
            raise _damaged("holds a number that pg_dump cannot have written")
        number: int = -value if sign else value
        return number

    def _text(self) -> bytes | None:
        return self._texts(1)[0]

    def _texts(self, count: int) -> list[bytes | None]:
        # One loop with names of its own, as 10,000 tables have a million of these.
        data, at, end, unpack_from = self._data, self._at, self._end, _INT.unpack_from
        texts: list[bytes | None] = []
        for _ in range(count):
            sign, size = unpack_from(data, at)
            at += 5
            if sign:
                # pg_restore takes every negative length for NULL, which pg_dump writes as -1.
                if (sign, size) != (1, 1):
                    raise _damaged("holds a length that pg_dump cannot have written")
                texts.append(None)
                continue
            begin, at = at, at + size
            if at > end or size > _LARGEST_INT:
                raise IndexError
            text = data[begin:at]
            # There the string would end for pg_restore.
            if size and b"\0" in text:
                raise _damaged("holds a NUL, which PostgreSQL knows in no name")
            texts.append(text)
        self._at = at
        return texts

    def _repeated(self, text: bytes | None) -> str:
        if (name := self._names.get(text)) is None:
            name = self._names[text] = self._decoded(text)
        return name

    def _decoded(self, text: bytes | None) -> str:
        return "" if text is None else text.decode(self._codec, errors="surrogateescape")


def _number(text: bytes | None, least: int, largest: int) -> int:
    if text is None or not _NUMBER.fullmatch(text) or not least <= int(text) <= largest:
        raise _damaged(f"holds {text!r} where a number belongs")
    return int(text)
