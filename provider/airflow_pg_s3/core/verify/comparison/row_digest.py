"""Rows of COPY text: compared in their order, piece by piece, or in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MODULUS = 1 << 256


@dataclass(frozen=True, kw_only=True)
class PieceDifference:
    """The first piece that is not as it was.

    :param number: of the piece, from 0; of one behind the last, if more came than was backed up.
    :param newlines_before: in the pieces before it.
    :param found: what came instead of it.
    """

    number: int
    newlines_before: int
    found: bytes


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was seen.

    :param raw_bytes: how much came.
    :param newlines: how many newlines are in it.
    :param difference: None if it is what was backed up.
    """

    raw_bytes: int
    newlines: int
    difference: PieceDifference | None


def compare_in_pieces(blocks: Iterable[bytes], pieces: Iterable[tuple[int, str]]) -> Compared:
    """Compare what comes with the lengths and hexadecimal SHA-256 of the pieces that it was backed up in.

    :param blocks: taken to their end also behind a difference.
    """
    expected = iter(pieces)
    wanted = next(expected, None)
    number = 0
    difference = None
    pending = bytearray()
    raw_bytes = newlines = newlines_before = 0
    for block in blocks:
        raw_bytes += len(block)
        newlines += block.count(b"\n")
        if difference is not None:
            continue
        pending += block
        while wanted is not None and len(pending) >= wanted[0]:
            size, sha256 = wanted
            found = bytes(memoryview(pending)[:size])
            if hashlib.sha256(found).hexdigest() != sha256:
                difference = PieceDifference(number=number, newlines_before=newlines_before, found=found)
                break
            newlines_before += found.count(b"\n")
            del pending[:size]
            wanted = next(expected, None)
            number += 1
        else:
            if wanted is None and pending:
                difference = PieceDifference(number=number, newlines_before=newlines_before, found=bytes(pending))
    if difference is None and wanted is not None:
        difference = PieceDifference(number=number, newlines_before=newlines_before, found=bytes(pending))
    return Compared(raw_bytes=raw_bytes, newlines=newlines, difference=difference)


class DigestInAnyOrder:
    """Adds up the digests of rows: the same for the same rows, whatever order they and their columns have.

    :param columns: of the text that `write` takes.
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
        """Take the next bytes of COPY text, with pg_dump's terminator or without."""
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


def first_different_byte(a: bytes, b: bytes) -> int:
    """Find the first byte that differs; where the shorter one ends, if there is none."""
    # By halves, which compares in C: a loop over a block of some MiB would take seconds.
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
