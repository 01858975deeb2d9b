"""Digests of the rows in COPY text: in order, in any order, and the first difference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from airflow_pg_s3.core.repository.digest import COPY_TERMINATOR

_MODULUS = 1 << 256


def digest_in_order(blocks: Iterable[bytes]) -> tuple[str, int]:
    """Return SHA-256 and number of rows of COPY text, as in a table's manifest entry."""
    sha256, rows = hashlib.sha256(), 0
    for block in blocks:
        sha256.update(block)
        # Newlines in values are written "\n".
        rows += block.count(b"\n")
    return sha256.hexdigest(), rows


class DigestInAnyOrder:
    """Adds up the digests of rows, so that the order of rows and of columns does not matter.

    :param columns: names of the columns in the text given to `write`, in its order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        by_name = sorted(range(len(columns)), key=lambda position: columns[position])
        self._order = None if by_name == list(range(len(columns))) else by_name
        self._rest = b""
        self._ended = False
        self._sum = 0
        self._rows = 0

    @property
    def sum_and_rows(self) -> tuple[int, int]:
        """Sum of the rows' SHA-256, modulo 2^256, and their number."""
        return self._sum, self._rows

    def write(self, block: bytes) -> None:
        """Hash the next bytes of COPY text, with or without pg_dump's terminator."""
        *rows, self._rest = (self._rest + block).split(b"\n")
        total = self._sum
        for row in rows:
            self._ended = self._ended or row == b"\\."
            if self._ended:
                break
            if self._order is not None:
                # Tabs in values are written "\t".
                values = row.split(b"\t")
                row = b"\t".join([values[position] for position in self._order])
            total += int.from_bytes(hashlib.sha256(row).digest(), "big")
            self._rows += 1
        self._sum = total % _MODULUS


class FirstDifference:
    """Compares a table's member, as its bytes arrive, with the COPY output of the restored table.

    :param found: blocks of COPY text, of which no more is read than expected.
    """

    def __init__(self, found: Iterator[bytes]) -> None:
        self._found = found
        self._ahead = b""
        self._held_back = b""
        self._equal_rows = 0
        self.row: int | None = None
        """Number, from 1, of the first row that differs, is missing or is surplus; None if there is none."""

    def write(self, block: bytes) -> None:
        """Compare the next bytes of the member."""
        # The last bytes may be pg_dump's terminator, which COPY does not send.
        joined = self._held_back + block
        keep = len(COPY_TERMINATOR)
        self._held_back = joined[-keep:]
        self._expect(joined[:-keep])

    def finish(self) -> None:
        """Check for rows after the member's end."""
        if self.row is None and (self._ahead or next(self._found, b"")):
            self.row = self._equal_rows + 1

    def _expect(self, expected: bytes) -> None:
        if self.row is not None:
            return
        while len(self._ahead) < len(expected) and (block := next(self._found, b"")):
            self._ahead += block
        found, self._ahead = self._ahead[: len(expected)], self._ahead[len(expected) :]
        if found != expected:
            first = _first_different_byte(expected, found)
            self.row = self._equal_rows + expected.count(b"\n", 0, first) + 1
        self._equal_rows += expected.count(b"\n")


def _first_different_byte(a: bytes, b: bytes) -> int:
    # A binary search compares in C: a loop over a block of some MiB would take seconds.
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
