"""Chunks end where the content says so, and today where they did yesterday."""

import hashlib
import math
import random

import pytest

from airflow_pg_s3.core.backup.chunk_cutter import LARGEST_AVERAGE, SMALLEST_AVERAGE, average_bytes, cut
from airflow_pg_s3.core.backup.chunk_store import RUN_BYTES

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


def rows(count, seed=0):
    rng = random.Random(seed)
    return b"".join(b"%d\t%x\tsome text\n" % (number, rng.getrandbits(64)) for number in range(count))


def cuts(data, average=SMALLEST_AVERAGE, piece=100_003):
    pieces = (data[start : start + piece] for start in range(0, len(data), piece))
    return [bytes(chunk) for chunk in cut(pieces, average)]


@pytest.mark.parametrize(
    ("average", "count", "lengths"),
    [
        (SMALLEST_AVERAGE, 14, "773d8a9f08a6ea4f"),
        (2 * MIB, 9, "b1d02cc3282c1117"),
        (LARGEST_AVERAGE, 5, "4a8f50fe040b0aca"),
    ],
)
def test_a_fixed_input_is_cut_where_it_always_was(average, count, lengths):
    # If this fails, a new version of the library cuts otherwise: then the next backup of every database would
    # store all anew, and that must be said in the change log.
    found = [len(chunk) for chunk in cuts(rows(600_000), average)]
    digest = hashlib.sha256(" ".join(map(str, found)).encode()).hexdigest()[:16]
    assert (len(found), digest) == (count, lengths)


@pytest.mark.parametrize("piece", [1, 4096, MIB, 100 * MIB])
def test_it_does_not_matter_how_the_bytes_come(piece):
    data = rows(60_000)
    assert cuts(data, piece=piece) == cuts(data)
    assert b"".join(cuts(data, piece=piece)) == data


def test_chunks_are_no_longer_than_twice_the_average_and_no_shorter_than_half_but_the_last():
    for data in (rows(600_000), bytes(10 * MIB), random.Random(0).randbytes(10 * MIB)):
        *found, last = map(len, cuts(data))
        assert all(MIB // 2 <= length <= 2 * MIB for length in found)
        assert 0 < last <= 2 * MIB


def test_of_nothing_there_are_none():
    assert cuts(b"") == []


def test_a_row_more_moves_an_end_or_two():
    data = rows(600_000)
    middle = data.index(b"\n300000\t")
    before, after = cuts(data), cuts(data[:middle] + b"\nanother row" + data[middle:])
    assert len(set(before) - set(after)) <= 2
    assert len(set(after) - set(before)) <= 2


@pytest.mark.parametrize(
    ("database", "before", "average"),
    [
        (0, None, MIB),
        (64 * GIB, None, MIB),
        (64 * GIB + 1, None, 2 * MIB),
        (128 * GIB, None, 2 * MIB),
        (128 * GIB + 1, None, 4 * MIB),
        (100 * TIB, None, 4 * MIB),
        (256 * GIB, MIB, MIB),
        (256 * GIB + 1, MIB, 4 * MIB),
        (10 * TIB, 4 * MIB, 4 * MIB),
        (GIB, 4 * MIB, 4 * MIB),
        (GIB, 8 * MIB, MIB),
    ],
)
def test_the_average_grows_with_the_database_and_stays_while_it_fits(database, before, average):
    assert average_bytes(database, before) == average


def test_a_first_night_of_a_terabyte_is_less_than_50_000_objects():
    # Compressed to a third, as tables of events are; a chunk is a fifth longer than the average that is asked for.
    stored_bytes_of_a_chunk = average_bytes(TIB, None) * 1.2 / 3
    chunks_in_a_run = math.ceil(RUN_BYTES / stored_bytes_of_a_chunk)
    assert TIB / 3 / (stored_bytes_of_a_chunk * chunks_in_a_run) < 50_000
