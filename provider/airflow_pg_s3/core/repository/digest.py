"""What a member of an archive holds: its digest and its rows, in one pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

COPY_TERMINATOR = b"\\.\n\n\n"
"""How pg_dump ends the data of every table in a directory archive (the same in 14 to 18)."""


@dataclass(frozen=True, kw_only=True)
class MemberDigest:
    """What was seen of one member.

    :param raw_bytes: its length, as pg_dump wrote it.
    :param copy_rows: rows of COPY text, or None if it does not end as the data of a table does.
    :param sha256: hexadecimal SHA-256 of all of it; None if it was not asked for.
    """

    raw_bytes: int
    copy_rows: int | None
    sha256: str | None


class MemberHasher:
    """Looks at a member as its bytes go by. Not thread-safe: one member, one thread.

    :param hashes: whether to compute its SHA-256; chunks have their own.
    """

    def __init__(self, *, hashes: bool = True) -> None:
        self._sha256 = hashlib.sha256() if hashes else None
        self._end = b""
        self._newlines = 0
        self.raw_bytes = 0
        """Bytes seen so far."""

    def update(self, piece: bytes) -> None:
        """Take the next bytes, in order."""
        self.raw_bytes += len(piece)
        self._newlines += piece.count(b"\n")
        self._end = (self._end + piece[-len(COPY_TERMINATOR) :])[-len(COPY_TERMINATOR) :]
        if self._sha256 is not None:
            self._sha256.update(piece)

    def finish(self) -> MemberDigest:
        """Say what was seen; more bytes may not follow."""
        # COPY text escapes newlines in values, so each newline but the terminator's three ends a row.
        is_copy = self._end == COPY_TERMINATOR
        return MemberDigest(
            raw_bytes=self.raw_bytes,
            copy_rows=self._newlines - COPY_TERMINATOR.count(b"\n") if is_copy else None,
            sha256=None if self._sha256 is None else self._sha256.hexdigest(),
        )
