"""Checks of an archive's end. That the bytes end proves nothing: a dump that died looks the same."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator

from airflow_pg_s3.core.errors import InputError, IntegrityError

_TAR_END = b"\0" * (2 * tarfile.BLOCKSIZE)
_TAIL_BYTES = 4096
_PLAIN_END = re.compile(
    rb"\n--\r?\n-- PostgreSQL database dump complete\r?\n--\s*(?:\\unrestrict (?P<key>\w+)\s*)?\Z"
)


class NotAnArchive(InputError):
    """An object is in none of pg_dump's formats; the message is a predicate of the object ("is …")."""


def whole_tar(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a tar archive's chunks; the last one only if the archive is complete.

    :raises IntegrityError: it is not.
    """
    return _whole(chunks, _check_tar)


def whole_plain(chunks: Iterator[bytes], restrict_key: bytes | None) -> Iterator[bytes]:
    r"""Yield a plain dump's chunks; the last one only if the dump is complete.

    :param restrict_key: the key of the dump's first line, ``\restrict``, which its ``\unrestrict`` must have too.
    :raises IntegrityError: it is not.
    """

    def check(tail: bytes, size: int) -> None:
        match = _PLAIN_END.search(tail)
        if match is None or match["key"] != restrict_key:
            raise IntegrityError(
                "ends too early: its last lines are not those of a whole dump (PostgreSQL database dump complete)"
            )

    return _whole(chunks, check)


def _check_tar(tail: bytes, size: int) -> None:
    if size % tarfile.BLOCKSIZE or not tail.endswith(_TAR_END):
        raise IntegrityError("ends too early: the two empty blocks at the end of a tar archive are missing")


def _whole(chunks: Iterator[bytes], check: Callable[[bytes, int], None]) -> Iterator[bytes]:
    tail, size, held_back = b"", 0, b""
    for chunk in chunks:
        if held_back:
            yield held_back
        held_back = chunk
        size += len(chunk)
        tail = (tail + chunk[-_TAIL_BYTES:])[-_TAIL_BYTES:]
    check(tail, size)
    yield held_back
