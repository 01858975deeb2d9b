"""Packs: many small members in one object, as a tar archive (POSIX ustar) that is stored like any member."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import Protocol

from airflow_pg_s3.core.errors import IntegrityError

SMALL_BYTES = 128 << 10
"""Members up to this size travel in packs."""

PACK_BYTES = 64 << 20
"""Raw bytes after which a pack is closed and the next one begun."""

TAR_END = b"\0" * (2 * tarfile.BLOCKSIZE)
"""What ends a pack."""

_BLOCK = tarfile.BLOCKSIZE
# A tar archive ends with zeros, which fill up its last record; and our decoder hands out 1 MiB at a time.
_LONGEST_END_BYTES = 1 << 21


def pack_name(number: int) -> str:
    """Name of the backup's pack `number` (from 1), without its suffixes."""
    return f"pack-{number:04d}.tar"


def tar_header(name: str, size: int) -> bytes:
    """What precedes a member's bytes in a pack."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info.tobuf(tarfile.USTAR_FORMAT)


def tar_padding(size: int) -> bytes:
    """What follows a member's bytes in a pack."""
    return b"\0" * (-size % _BLOCK)


class MemberSink(Protocol):
    """Where the bytes of one member go."""

    def write(self, chunk: bytes, /) -> object:
        """Take the next bytes."""

    def close(self) -> object:
        """Take note that all have come."""


class PackReader:
    """Takes a pack apart as its bytes arrive.

    :param open_member: called with the name and size of each member, in order, on the writer's thread; returns
        where its bytes go. Both come from outside: it must compare them with the manifest.
    """

    def __init__(self, open_member: Callable[[str, int], MemberSink]) -> None:
        self._open_member = open_member
        self._header = bytearray()
        self._sink: MemberSink | None = None
        self._data_left = 0
        self._padding_left = 0
        self._ended = False
        self._behind_end = 0
        self._names: set[str] = set()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        :raises IntegrityError: they are no tar archive of plain files.
        """
        rest = memoryview(chunk)
        if self._ended:
            self._behind_end += len(chunk)
            if self._behind_end > _LONGEST_END_BYTES:
                raise IntegrityError("goes on behind its end")
            return
        while rest and not self._ended:
            if self._sink is not None:
                rest = self._take_data(rest)
            elif self._padding_left:
                skipped = min(len(rest), self._padding_left)
                self._padding_left -= skipped
                rest = rest[skipped:]
            else:
                rest = self._take_header(rest)

    def finish(self) -> None:
        """Say that all bytes have come.

        :raises IntegrityError: the archive ends too early.
        """
        if not self._ended:
            raise IntegrityError("ends too early")

    def _take_data(self, rest: memoryview) -> memoryview:
        piece = rest[: self._data_left]
        if self._sink is not None:
            self._sink.write(bytes(piece))
            self._data_left -= len(piece)
            if not self._data_left:
                self._sink.close()
                self._sink = None
        return rest[len(piece) :]

    def _take_header(self, rest: memoryview) -> memoryview:
        missing = _BLOCK - len(self._header)
        self._header += rest[:missing]
        if len(self._header) == _BLOCK:
            self._begin_member(bytes(self._header))
            self._header.clear()
        return rest[missing:]

    def _begin_member(self, header: bytes) -> None:
        if header == bytes(_BLOCK):
            self._ended = True
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeError) as error:
            raise IntegrityError(f"is damaged: {error}") from error
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise IntegrityError(f"holds {info.name!r}, which is not a plain file")
        if info.size < 0:
            raise IntegrityError(f"is damaged: {info.name!r} has a size of {info.size}")
        if info.name in self._names:
            raise IntegrityError(f"holds {info.name!r} twice")
        self._names.add(info.name)
        sink = self._open_member(info.name, info.size)
        self._data_left = info.size
        self._padding_left = -info.size % _BLOCK
        if info.size:
            self._sink = sink
        else:
            sink.close()
