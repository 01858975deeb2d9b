"""The names of files that a directory archive speaks of: pg_restore opens whatever name stands there.

With ``../`` in it, that is any file of the worker, whose content would be loaded into a table. So an archive with
names that pg_dump would not have written is refused. Source of the format: PostgreSQL's pg_backup_archiver.c
(ReadHead, ReadToc) and pg_backup_directory.c.
"""

from __future__ import annotations

import re
from pathlib import Path

from airflow_pg_s3.core.errors import InputError, IntegrityError

_OLDEST, _NEWEST = (1, 12), (1, 16)
_DATA_OF_A_TABLE = re.compile(rb"[0-9]{1,10}\.dat")
_LIST = re.compile(rb"blobs(_[0-9]{1,10})?\.toc")
_LARGE_OBJECT = re.compile(rb"[0-9]{1,10} blob_[0-9]{1,10}\.dat")
_LONGEST_LINE_BYTES = 64


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
                raise IntegrityError(f"holds {line[:_LONGEST_LINE_BYTES]!r}, which names no large object")
        if len(self._rest) > _LONGEST_LINE_BYTES:
            raise IntegrityError(f"holds {self._rest[:_LONGEST_LINE_BYTES]!r}, which names no large object")


def check_names(folder: Path) -> None:
    """Look at all names in an archive's toc.dat, and in the lists of large objects beside it.

    :raises IntegrityError: one leads out of the folder, or a table of contents is damaged.
    :raises InputError: it is of a version that is not known here.
    """
    check_toc((folder / "toc.dat").read_bytes())
    for path in folder.glob("blobs*.toc"):
        if path.is_file():
            try:
                LargeObjectNames().update(path.read_bytes())
            except IntegrityError as error:
                raise IntegrityError(f"the archive's member {path.name} {error}") from error


def check_toc(toc: bytes) -> None:
    """Look at the names in the bytes of a toc.dat; raises as `check_names` does."""
    for kind, name in files_of(toc):
        if not (_LIST if kind == b"BLOBS" else _DATA_OF_A_TABLE).fullmatch(name):
            raise IntegrityError(
                f"the archive's table of contents names the file {name!r}, which pg_dump would not have written"
            )


def files_of(toc: bytes) -> list[tuple[bytes, bytes]]:
    """Kind of entry, and name of the file that it has its data in, of all entries of a toc.dat that have data.

    :raises IntegrityError: it is damaged.
    :raises InputError: it is of a version that is not known here.
    """
    if not toc.startswith(b"PGDMP") or len(toc) < 8:
        raise IntegrityError("the archive's table of contents is damaged")
    version = (toc[5], toc[6])
    if not _OLDEST <= version <= _NEWEST:
        raise InputError(
            f"the archive's table of contents has version {version[0]}.{version[1]}, and this version of "
            f"airflow-provider-pg-s3 knows {_OLDEST[0]}.{_OLDEST[1]} to {_NEWEST[0]}.{_NEWEST[1]}: upgrade it"
        )
    try:
        return _Toc(toc, version).files()
    except IndexError as error:
        raise IntegrityError("the archive's table of contents ends too early") from error


class _Toc:
    """Reads a toc.dat field by field.

    :param version: of its format.
    """

    def __init__(self, data: bytes, version: tuple[int, int]) -> None:
        self._data = data
        self._version = version
        self._at = 8
        self._int_bytes = self._byte()

    def files(self) -> list[tuple[bytes, bytes]]:
        self._head()
        entries = [self._entry() for _ in range(self._int())]
        return [(kind or b"", name) for kind, name in entries if name]

    def _head(self) -> None:
        self._byte()  # size of an offset
        self._byte()  # format
        if self._version >= (1, 15):
            self._byte()  # compression algorithm
        else:
            self._int()  # compression level
        for _ in range(7):
            self._int()  # time of the dump
        for _ in range(3):
            self._text()  # database, versions of server and pg_dump

    def _entry(self) -> tuple[bytes | None, bytes | None]:
        self._int()  # dump id
        self._int()  # whether it has data
        for _ in range(3):
            self._text()  # catalog's oid, oid, tag
        kind = self._text()
        self._int()  # section
        for _ in range(5):
            self._text()  # definition, DROP, COPY, namespace, tablespace
        if self._version >= (1, 14):
            self._text()  # table access method
        if self._version >= (1, 16):
            self._int()  # kind of relation
        self._text()  # owner
        self._text()  # with oids
        while self._text() is not None:
            pass  # dependencies
        return kind, self._text()

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _int(self) -> int:
        sign = self._byte()
        end = self._at + self._int_bytes
        self._reach(end)
        value = int.from_bytes(self._data[self._at : end], "little")
        self._at = end
        return -value if sign else value

    def _text(self) -> bytes | None:
        size = self._int()
        if size < 0:
            return None
        end = self._at + size
        self._reach(end)
        text = self._data[self._at : end]
        self._at = end
        return text

    def _reach(self, end: int) -> None:
        if end > len(self._data):
            raise IndexError
