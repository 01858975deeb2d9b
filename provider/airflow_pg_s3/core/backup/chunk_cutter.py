"""Cuts members into chunks where their content says so.

A row more or less moves an end or two, and not all that follow: so what has not changed is found again.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyfastcdc import FastCDC

from airflow_pg_s3.core.repository.codec import IteratorReader

METHOD = "fastcdc-2020"
"""Name of the algorithm (Xia et al., IEEE TPDS 2020), as manifests have it."""

SMALLEST_AVERAGE, LARGEST_AVERAGE = 1 << 20, 4 << 20
_LARGEST_MIN = 1 << 20  # that pyfastcdc takes
_BYTES_FOR_SMALLEST = 64 << 30
_FACTOR = 4


def average_bytes(database_bytes: int, before: int | None) -> int:
    """How long chunks are to be on average, so that a large database has not too many.

    :param before: what the newest backup has; another one would store all anew.
    """
    average = SMALLEST_AVERAGE
    while database_bytes > _BYTES_FOR_SMALLEST * (average // SMALLEST_AVERAGE):
        average *= 2
    if before is not None and average // _FACTOR <= before <= average * _FACTOR:
        return before
    return min(average, LARGEST_AVERAGE)


def cut(pieces: Iterator[bytes], average: int) -> Iterator[memoryview]:
    """Yield the chunks of a member, in order. Each is only valid until the next one.

    :param pieces: the member's bytes, in pieces of any length.
    """
    # With a high minimum, the next cut is found without a look at half of the bytes.
    cutter = FastCDC(average, min_size=min(average // 2, _LARGEST_MIN), max_size=2 * average)
    for chunk in cutter.cut_stream(IteratorReader(pieces)):
        yield chunk.data
