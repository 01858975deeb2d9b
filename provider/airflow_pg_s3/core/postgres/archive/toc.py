"""The table of contents of a pg_dump archive: its entries, their order, and their dependencies.

All three formats share it: it is ``toc.dat`` in a directory and at the beginning of a tar archive, and the
beginning of a custom archive. Source of the format: PostgreSQL's pg_backup_archiver.c (ReadHead, ReadToc),
pg_backup_directory.c, pg_backup_tar.c and pg_backup_custom.c.

A table of contents is untrusted input, and pg_restore opens every file that it names. So whatever pg_dump would
not have written is refused: pg_restore misreads much of that, and silently ignores some.
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
# Kinds of entries whose data is in members of its own; without that data, they have no commands.
HOLDING_DATA = ("TABLE DATA", "BLOBS")
RELATIONS = ("FOREIGN TABLE", "MATERIALIZED VIEW", "TABLE", "VIEW", "SEQUENCE")
_SECTIONS = {1: None, 2: PRE_DATA, 3: DATA, 4: POST_DATA}
# The format versions of pg_dump 12 to 18.
_OLDEST, _NEWEST = (1, 14), (1, 16)
_CUSTOM, _TAR = 1, 3  # toc.dat of a directory archive has the number of the tar format, too
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


class TocCutShort(IntegrityError):
    """The data ends before the table of contents does."""


class Entry(NamedTuple):
    """One entry: an object, its data, or a property of it.

    Names are decoded with the archive's encoding; bytes that are invalid in it become surrogates (`Toc.shown`).
    SQL stays bytes in that encoding, empty if there is none. The definition of ``BLOB METADATA`` is a list of
    oids, and an ACL of ``LARGE OBJECTS`` names only the first one: pg_restore generates commands from both.

    :param dump_id: its number, by which other entries refer to it.
    :param kind: ``TABLE``, ``TABLE DATA``, ``FK CONSTRAINT`` …
    :param section: the archive's section; None for comments, privileges and the like, which follow their object.
    :param name: its name, with what makes it unique: a function's arguments, a constraint's table.
    :param schema: its schema; empty if it has none.
    :param definition: the SQL that creates it.
    :param drop: the SQL that drops it.
    :param copy: the COPY command of a table's data.
    :param access_method: a table's access method.
    :param relkind: a relation's ``relkind`` in ``pg_class``; empty before format 1.16.
    :param dependencies: dump ids of what must be restored before it. Some may belong to no entry.
    :param file: name of the file with its data; empty if it has none, and in a custom archive.
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

    :param version: version of the archive's format, such as (1, 16).
    :param is_custom: whether it is of a custom archive, which has no files.
    :param database: the database's name, decoded like the names in `Entry`.
    :param server_version: version of the server that was dumped, such as ``15.20 (Debian 15.20-0+deb12u1)``.
    :param encoding: PostgreSQL's name of the archive's encoding.
    :param entries: the entries, in pg_restore's order.
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
        """The section of each entry, by dump id; an entry without one belongs to that of the entry before it.

        Source: ProcessArchiveRestoreOptions in pg_backup_archiver.c.
        """
        sections, current = {}, PRE_DATA
        for entry in self.entries:
            current = entry.section or current
            sections[entry.dump_id] = current
        return sections

    def is_of_extension(self, data: Entry) -> bool:
        """True if the table of a ``TABLE DATA`` entry belongs to an extension; archives do not record to which."""
        needed = [self.by_id[number].kind for number in data.dependencies if number in self.by_id]
        return self._has_extensions and not {"TABLE", "FOREIGN TABLE"}.intersection(needed)

    @cached_property
    def _has_extensions(self) -> bool:
        return any(entry.kind == "EXTENSION" for entry in self.entries)

    def shown(self, name: str) -> str:
        """Return a name of an entry in the form that manifests have and people see.

        :param name: a name from `Entry`, perhaps with surrogates.
        """
        return name if name.isascii() else decode_name(name.encode(self.codec, "surrogateescape"), self.codec)

    def full_name(self, entry: Entry) -> str:
        """Return the name of an entry with its schema, in the same form."""
        return f"{self.shown(entry.schema)}.{self.shown(entry.name)}"


def read_toc(file: Path) -> Toc:
    """Read the table of contents of an archive.

    :param file: a directory archive's toc.dat; or a custom or tar archive, or the beginning of one.
    :raises IntegrityError: it is damaged, or holds what pg_dump would not have written.
    :raises InputError: its format version is unknown.
    """
    if file.stat().st_size == 0:
        raise _damaged("is empty")
    # Mapped instead of read into memory, as the file is untrusted and may be of any size.
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
    """Check the file names in the table of contents of a directory archive.

    :raises IntegrityError: it is of another format, or names a file that pg_dump would not have named.
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
    """Read the table of contents of a directory archive, and check all file names in the archive.

    :raises IntegrityError: as in `read_toc`, `check_files` and `LargeObjectNames`.
    :raises InputError: as in `read_toc`.
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
    """Read a list of large objects (``blobs.toc``, ``blobs_123.toc``): their oids and file names.

    :raises IntegrityError: the list holds what pg_dump would not have written.
    """
    data = file.read_bytes()
    names = LargeObjectNames()
    names.update(data)
    names.finish()
    return [(int(oid), name.decode("ascii")) for oid, name in _LARGE_OBJECT.findall(data)]


class LargeObjectNames:
    """Checks a list of large objects as its bytes arrive; refuses what pg_dump would not have written."""

    def __init__(self) -> None:
        self._rest = b""

    def update(self, chunk: bytes) -> None:
        """Check the next bytes.

        :raises IntegrityError: pg_dump would not have written a line.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if not _LARGE_OBJECT.fullmatch(line):
                raise _no_large_object(line)
        if len(self._rest) > _LONGEST_LINE_BYTES:
            raise _no_large_object(self._rest)

    def finish(self) -> None:
        """Check the end of the list.

        :raises IntegrityError: the last line is incomplete; pg_restore would read it all the same.
        """
        if self._rest:
            raise _no_large_object(self._rest)


def _no_large_object(line: bytes) -> IntegrityError:
    return IntegrityError(f"holds {line[:_LONGEST_LINE_BYTES]!r}, which names no large object")


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(f"the archive's table of contents {what}")


def _place_in_tar(data: bytes | mmap.mmap) -> tuple[int, int]:
    """Return where toc.dat, the first member, begins and ends in a tar archive."""
    try:
        header = tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "ascii", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _damaged("is damaged") from error
    if header.name != "toc.dat" or header.type != tarfile.REGTYPE:
        raise _damaged("is damaged")
    return tarfile.BLOCKSIZE, min(len(data), tarfile.BLOCKSIZE + header.size)


class _Reader:
    """Reads a table of contents field by field; refuses whatever pg_restore might read differently."""

    def __init__(self, data: bytes | mmap.mmap, at: int, end: int, version: tuple[int, int]) -> None:
        self._data = data
        self._at = at
        self._end = end
        self._version = version
        self._is_custom = False
        self._codec = ""
        # Decoded names, as owners, schemas and the like repeat.
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
            raise _damaged("continues after its end")
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
        """Read the encoding in advance from the first entry, as names cannot be decoded without it."""
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
                raise _damaged("does not say as pg_dump does where an entry's data is")
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
        # In C, the number would wrap around.
        if sign > 1 or value > _LARGEST_INT:
            raise _damaged("holds a number that pg_dump cannot have written")
        number: int = -value if sign else value
        return number

    def _text(self) -> bytes | None:
        return self._texts(1)[0]

    def _texts(self, count: int) -> list[bytes | None]:
        # A loop with local names, for speed: 10,000 tables have a million texts.
        data, at, end, unpack_from = self._data, self._at, self._end, _INT.unpack_from
        texts: list[bytes | None] = []
        for _ in range(count):
            sign, size = unpack_from(data, at)
            at += 5
            if sign:
                # pg_restore reads every negative length as NULL, but pg_dump writes only -1.
                if (sign, size) != (1, 1):
                    raise _damaged("holds a length that pg_dump cannot have written")
                texts.append(None)
                continue
            begin, at = at, at + size
            if at > end or size > _LARGEST_INT:
                raise IndexError
            text = data[begin:at]
            # For pg_restore the string would end at the NUL.
            if size and b"\0" in text:
                raise _damaged("holds a NUL, which no name in PostgreSQL can have")
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
