"""COPY text as CSV, as ``COPY … WITH (FORMAT csv)`` writes it: NULL is nothing, and an empty text is ``""``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_MEANS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_NULL = b"\\N"
# An end of data, to those who read it.
_END = b"\\."
_QUOTED = re.compile(rb'[",\r\n]')


class CsvText:
    """Turns COPY text into CSV.

    :param write: takes it.
    :param columns: names of the columns, encoded as the rows are.
    """

    def __init__(self, write: Callable[[bytes], object], columns: Sequence[bytes]) -> None:
        self._write = write
        self._columns = columns
        self._rest = b""

    def write_header(self) -> None:
        """Write the names of the columns."""
        self._write(b",".join(map(self._quoted, self._columns)) + b"\n")

    def write(self, chunk: bytes) -> None:
        """Take COPY text, in pieces that end anywhere."""
        # Line breaks in values are escaped, so each that is not ends a row.
        *rows, self._rest = (self._rest + chunk).split(b"\n")
        if rows:
            self._write(b"".join(self._row(row) for row in rows))

    def _row(self, row: bytes) -> bytes:
        values = row.split(b"\t") if self._columns else []
        return b",".join(self._value(value) for value in values) + b"\n"

    def _value(self, value: bytes) -> bytes:
        if value == _NULL:
            return b""
        if b"\\" in value:
            value = _ESCAPED.sub(lambda match: _MEANS.get(match[1], match[1]), value)
        return self._quoted(value)

    def _quoted(self, value: bytes) -> bytes:
        if not value or _QUOTED.search(value) or (value == _END and len(self._columns) == 1):
            return b'"' + value.replace(b'"', b'""') + b'"'
        return value
