"""The names of files that a directory archive speaks of: pg_restore opens whatever name stands there.

With ``../`` in it, that is any file of the worker, whose content would be loaded into a table. So an archive with
names that pg_dump would not have written is refused. Source of the format: PostgreSQL's pg_backup_archiver.c
(ReadHead, ReadToc) and pg_backup_directory.c.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from airflow_pg_s3.core.errors import InputError, IntegrityError

_OLDEST, _NEWEST = (1, 12), (1, 16)
_DATA_OF_A_TABLE = re.compile(rb"[0-9]{1,10}\.dat")
_LIST = re.compile(rb"blobs(_[0-9]{1,10})?\.toc")
_LARGE_OBJECT = re.compile(rb"[0-9]{1,10} blob_[0-9]{1,10}\.dat")
_LONGEST_LINE_BYTES = 64
_READ_BYTES = 1 << 20
_INT_BYTES = 4
_INT = struct.Struct("<BI")  # sign and value
_LARGEST_INT = (1 << 31) - 1


class LargeObjectNames:
    """Takes a list of large objects (``blobs.toc``, ``blobs_123.toc``) as its bytes come."""

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


def check_names(folder: Path) -> None:
    """Look at all names in an archive's toc.dat, and in the lists of large objects beside it.

    :raises IntegrityError: one leads out of the folder, or a table of contents is damaged.
    :raises InputError: it is of a version that is not known here.
    """
    check_toc(folder / "toc.dat")
    for path in folder.glob("blobs*.toc"):
        names = LargeObjectNames()
        try:
            with path.open("rb") as file:
                while chunk := file.read(_READ_BYTES):
                    names.update(chunk)
            names.finish()
        except IntegrityError as error:
            raise IntegrityError(f"the archive's member {path.name} {error}") from error


def check_toc(file: Path) -> None:
    """Look at the names in a toc.dat; raises as `check_names` does."""
    if file.stat().st_size == 0:
        raise IntegrityError("the archive's table of contents is empty")
    # Not read into memory: what it is made of comes from outside, and so does its size.
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as toc:
        _check(files_of(toc))


def _check(files: Iterable[tuple[bytes, bytes]]) -> None:
    for kind, name in files:
        if not (_LIST if kind == b"BLOBS" else _DATA_OF_A_TABLE).fullmatch(name):
            raise IntegrityError(
                f"the archive's table of contents names the file {name!r}, which pg_dump would not have written"
            )


def files_of(toc: bytes | mmap.mmap) -> Iterator[tuple[bytes, bytes]]:
    """Kind of entry, and name of the file that it has its data in, of all entries of a toc.dat that have data.

    :raises IntegrityError: it is damaged, or says what pg_dump would not have written.
    :raises InputError: it is of a version that is not known here.
    """
    if toc[:5] != b"PGDMP" or len(toc) < 8:
        raise IntegrityError("the archive's table of contents is damaged")
    version = (toc[5], toc[6])
    if not _OLDEST <= version <= _NEWEST:
        raise InputError(
            f"the archive's table of contents has version {version[0]}.{version[1]}, and this version of "
            f"airflow-provider-pg-s3 knows {_OLDEST[0]}.{_OLDEST[1]} to {_NEWEST[0]}.{_NEWEST[1]}: upgrade it"
        )
    try:
        yield from _Toc(toc, version).files()
    except (IndexError, struct.error) as error:
        raise IntegrityError("the archive's table of contents ends too early") from error


class _Toc:
    """Reads a toc.dat field by field, and nothing that pg_restore might read otherwise.

    :param version: of its format.
    """

    def __init__(self, data: bytes | mmap.mmap, version: tuple[int, int]) -> None:
        self._data = data
        self._version = version
        self._at = 8

    def files(self) -> Iterator[tuple[bytes, bytes]]:
        self._head()
        for _ in range(self._count()):
            kind, name = self._entry()
            if name:
                yield kind or b"", name
        if self._at != len(self._data):
            raise IntegrityError("the archive's table of contents goes on behind its end")

    def _head(self) -> None:
        if self._byte() != _INT_BYTES:
            raise IntegrityError("the archive's table of contents has integers of another size than pg_dump's")
        self._byte()  # size of an offset
        self._byte()  # format
        if self._version >= (1, 15):
            self._byte()  # compression algorithm
        else:
            self._int()  # compression level
        for _ in range(7):
            self._int()  # time of the dump
        self._skip_texts(3)  # database, versions of server and pg_dump

    def _entry(self) -> tuple[bytes | None, bytes | None]:
        self._int()  # dump id
        self._int()  # whether it has data
        self._skip_texts(3)  # catalog's oid, oid, tag
        kind = self._text()
        self._int()  # section
        # Definition, DROP, COPY, namespace, tablespace; table access method.
        self._skip_texts(6 if self._version >= (1, 14) else 5)
        if self._version >= (1, 16):
            self._int()  # kind of relation
        self._skip_texts(2)  # owner, with oids
        while self._skip_texts(1):
            pass  # dependencies
        return kind, self._text()

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _int(self) -> int:
        number = _number(self._data, self._at)
        self._at += _INT.size
        return number

    def _count(self) -> int:
        count = self._int()
        if count < 0:
            raise IntegrityError(f"the archive's table of contents claims to have {count} entries")
        return count

    def _text(self) -> bytes | None:
        begin = self._at + _INT.size  # behind its length
        return self._data[begin : self._at] if self._skip_texts(1) else None

    def _skip_texts(self, count: int) -> bool:
        """Go behind so many strings; False if the last one is NULL."""
        # One loop, as 10,000 tables have a million of them.
        data, at, size = self._data, self._at, 0
        for _ in range(count):
            size = _number(data, at)
            at += _INT.size
            if size > 0:
                if at + size > len(data):
                    raise IndexError
                # There the string would end for pg_restore.
                if data.find(b"\0", at, at + size) >= 0:
                    raise IntegrityError(
                        "the archive's table of contents holds a NUL, which PostgreSQL knows in no name"
                    )
                at += size
        self._at = at
        return size >= 0


def _number(data: bytes | mmap.mmap, at: int) -> int:
    sign, value = _INT.unpack_from(data, at)
    # In C it would wrap, and mean something else.
    if sign > 1 or value > _LARGEST_INT:
        raise IntegrityError("the archive's table of contents holds a number that pg_dump cannot have written")
    number: int = -value if sign else value
    return number
