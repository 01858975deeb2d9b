"""A directory archive packed with tar, unpacked into a folder as it streams.

Of the tar, only a file's base name decides where its bytes are written, and it must be a name that pg_dump uses.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.restore.external.completeness import NotAnArchive
from airflow_pg_s3.core.workspace.resources import require_free_space

_BLOCK = tarfile.BLOCKSIZE
_SUFFIX = r"(\.gz|\.lz4|\.zst)?"
_MEMBER = re.compile(rf"toc\.dat|(\d+|blob_\d+)\.dat{_SUFFIX}|blobs(_\d+)?\.toc")
_MEMBERS_LIMIT = 1_000_000
# Limits memory: extended headers, which hold names and times, are read as a whole.
_EXTENSION_LIMIT_BYTES = 1 << 20
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)


def unpack_directory(chunks: Iterator[bytes], folder: Path) -> int:
    """Write the archive's members into `folder`; return their size in bytes.

    :param chunks: a tar archive in POSIX, GNU or old format.
    :param folder: an empty folder.
    :raises IntegrityError: the tar is incomplete or damaged, or holds links, devices, or names that lead
        elsewhere.
    :raises NotAnArchive: the tar holds no directory archive.
    :raises InputError: the disk has no room for a member.
    """
    reader = _Reader(chunks)
    total, count, home = 0, 0, ""
    while (entry := _next_entry(reader)) is not None:
        name, size = entry
        parent, _, base = name.rpartition("/")
        if not _MEMBER.fullmatch(base):
            reader.skip(size)
            continue
        if count == 0:
            home = parent
        if parent != home:
            raise IntegrityError(f"holds members of an archive in two folders, {home!r} and {parent!r}")
        count += 1
        if count > _MEMBERS_LIMIT:
            raise IntegrityError(f"holds more than {_MEMBERS_LIMIT} members")
        require_free_space(folder, size, what=f"its member {base}")
        _write(reader, folder / base, size)
        total += size
    reader.drain()
    if not (folder / "toc.dat").exists():
        raise NotAnArchive("is a tar archive without a toc.dat, so neither of pg_dump's format tar nor directory")
    return total


class _Reader:
    """Reads exact numbers of bytes from a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes, in pieces as they arrive."""
        while size:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise IntegrityError("ends too early: its tar archive is not complete")
                self._rest = memoryview(chunk)
                continue
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def skip(self, size: int) -> None:
        """Skip a member and its padding."""
        for _ in self.pieces(size + -size % _BLOCK):
            pass

    def drain(self) -> None:
        """Read to the end, so that the checksum at the end of compressed data is verified."""
        for _ in self._chunks:
            pass


def _next_entry(reader: _Reader) -> tuple[str, int] | None:
    """Read headers up to the next plain file's; return its name and size, None at the archive's end."""
    changes: dict[str, str] = {}
    while True:
        block = reader.read(_BLOCK)
        if block == bytes(_BLOCK):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise IntegrityError(f"is a damaged tar archive: {error}") from error
        if info.size < 0:
            raise IntegrityError(f"is a damaged tar archive: {info.name!r} has a size of {info.size}")
        if info.type in _EXTENSIONS:
            changes |= _extension(reader, info)
            continue
        name = changes.get("path", info.name).removeprefix("./")
        if name.startswith("/") or ".." in name.split("/"):
            raise IntegrityError(f"holds the name {name!r}, which leads out of its folder")
        if info.type == tarfile.DIRTYPE:
            changes = {}
        elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            return name, _size(changes, info)
        else:
            raise IntegrityError(f"holds {name!r}, which is neither a plain file nor a folder")


def _extension(reader: _Reader, info: tarfile.TarInfo) -> dict[str, str]:
    """Read the fields of the next file that an extended header replaces."""
    if info.size > _EXTENSION_LIMIT_BYTES:
        raise IntegrityError(f"is a damaged tar archive: an extended header has {info.size} bytes")
    data = reader.read(info.size + -info.size % _BLOCK)[: info.size]
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode(errors="surrogateescape")}
    if info.type == tarfile.XGLTYPE:
        return {}
    changes = {}
    while data:
        # "30 mtime=1700000000.123456789\n", where 30 is the length of the whole record.
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length[:9]) <= len(data):
            raise IntegrityError("is a damaged tar archive: an extended header cannot be read")
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        changes[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        data = data[int(length) :]
    return changes


def _size(changes: dict[str, str], info: tarfile.TarInfo) -> int:
    # A size over 8 GiB is in an extended header.
    text = changes.get("size", str(info.size))
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise IntegrityError(f"is a damaged tar archive: {info.name!r} has a size of {text[:30]!r}")
    return int(text)


def _write(reader: _Reader, path: Path, size: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise IntegrityError(f"holds {path.name} twice") from error
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        for piece in reader.pieces(size):
            while piece:
                piece = piece[file.write(piece) :]
    for _ in reader.pieces(-size % _BLOCK):
        pass
