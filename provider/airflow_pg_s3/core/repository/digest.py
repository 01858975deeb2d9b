"""What a member of an archive holds: its digests and its rows, in one pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

COPY_TERMINATOR = b"\\.\n\n\n"
"""How pg_dump ends the data of every table in a directory archive (the same in 14 to 18)."""


@dataclass(frozen=True, kw_only=True)
class MemberDigest:
    """What was seen of one member.

    :param raw_bytes: its length, as pg_dump wrote it.
    :param sha256: hexadecimal SHA-256 of all of it.
    :param copy_rows: rows of COPY text, or None if it does not end as the data of a table does.
    :param copy_sha256: SHA-256 of the COPY text without pg_dump's terminator, which is what
        ``COPY ... TO STDOUT`` sends; None where `copy_rows` is.
    """

    raw_bytes: int
    sha256: str
    copy_rows: int | None
    copy_sha256: str | None


class MemberHasher:
    """Digests a member as its bytes go by. Not thread-safe: one member, one thread."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._held_back = b""
        self._raw_bytes = 0
        self._newlines = 0

    @property
    def raw_bytes(self) -> int:
        """Bytes seen so far."""
        return self._raw_bytes

    def update(self, chunk: bytes) -> None:
        """Take the next bytes, in order."""
        self._raw_bytes += len(chunk)
        self._newlines += chunk.count(b"\n")
        # The last five bytes may be the terminator, which the content digest leaves out.
        keep = len(COPY_TERMINATOR)
        if len(chunk) >= keep:
            self._sha256.update(self._held_back)
            self._sha256.update(memoryview(chunk)[:-keep])
            self._held_back = chunk[-keep:]
        else:
            joined = self._held_back + chunk
            self._sha256.update(joined[:-keep])
            self._held_back = joined[-keep:]

    def finish(self) -> MemberDigest:
        """Say what was seen; more bytes may not follow."""
        copy_rows = copy_sha256 = None
        if self._held_back == COPY_TERMINATOR:
            # COPY text escapes newlines in values, so each newline but the terminator's three ends a row.
            copy_rows = self._newlines - COPY_TERMINATOR.count(b"\n")
            copy_sha256 = self._sha256.hexdigest()
        self._sha256.update(self._held_back)
        self._held_back = b""
        return MemberDigest(
            raw_bytes=self._raw_bytes,
            sha256=self._sha256.hexdigest(),
            copy_rows=copy_rows,
            copy_sha256=copy_sha256,
        )
