"""What a run holds is read from its own end, or nothing is."""

import hashlib
import shutil
import subprocess

import pytest
from backports import zstd

from airflow_pg_s3.core.repository.members import LONGEST_CHUNK_BYTES, Chunk
from airflow_pg_s3.core.repository.run_trailer import (
    LONGEST_TRAILER_BYTES,
    MOST_CHUNKS,
    make_trailer,
    read_trailer,
)

KEY = "20261122T030000Z-5f3a9c/000001.zst"
CONTENTS = [b"a" * 1000, b"b" * 70_000, b"c"]


def chunks_of(*contents):
    """The chunks of a run, and what it holds before its trailer."""
    chunks, stored = [], b""
    for content in contents:
        frame = zstd.compress(content)
        chunks.append(Chunk(hashlib.sha256(content).digest(), len(content), KEY, len(stored), len(frame)))
        stored += frame
    return chunks, stored


CHUNKS, STORED = chunks_of(*CONTENTS)
RUN = STORED + make_trailer(CHUNKS)


def test_it_is_as_the_format_says():
    one = Chunk(hashlib.sha256(b"x").digest(), 1, KEY, 0, 10)
    assert make_trailer([one]).hex() == (
        "5c2a4d184c000000"
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881010000000a000000"
        "01000000"
        "91c2d5ad93860a238c8d6234c61b7c4aace668369e8ed0bca624541e11ca287d"
    )


def test_what_was_written_is_read():
    assert read_trailer(KEY, len(RUN), RUN) == CHUNKS
    assert read_trailer(KEY, len(RUN), RUN[-len(make_trailer(CHUNKS)) :]) == CHUNKS


def test_the_longest_is_read_with_one_request():
    chunks, stored = chunks_of(*(b"%d" % number for number in range(MOST_CHUNKS)))
    run = stored + make_trailer(chunks)
    assert len(make_trailer(chunks)) == LONGEST_TRAILER_BYTES
    assert read_trailer(KEY, len(run), run[-LONGEST_TRAILER_BYTES:]) == chunks


@pytest.mark.parametrize("at", range(-len(make_trailer(CHUNKS)), 0))
def test_one_in_which_a_bit_differs_says_nothing(at):
    damaged = bytearray(RUN)
    damaged[at] ^= 1 << (at % 8)
    assert read_trailer(KEY, len(RUN), bytes(damaged)) == []


def test_one_that_is_cut_off_or_of_another_run_says_nothing():
    for end in (b"", b"\0", RUN[-40:], RUN[:-1], STORED, bytes(4000), b"\xff" * 4000):
        assert read_trailer(KEY, len(RUN), end) == []
    for run_bytes in (len(RUN) - 1, len(RUN) + 1):
        assert read_trailer(KEY, run_bytes, RUN) == []


@pytest.mark.parametrize(("raw_bytes", "stored_bytes"), [(0, 1), (1, 0), (LONGEST_CHUNK_BYTES + 1, 1)])
def test_chunks_that_no_reader_takes_are_none(raw_bytes, stored_bytes):
    chunk = Chunk(b"d" * 32, raw_bytes, KEY, 0, stored_bytes)
    trailer = make_trailer([chunk])
    assert read_trailer(KEY, stored_bytes + len(trailer), trailer) == []


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the program zstd")
def test_to_zstd_a_run_is_its_chunks():
    unpacked = subprocess.run(["zstd", "-d", "-c"], input=RUN, capture_output=True, check=True).stdout
    assert unpacked == b"".join(CONTENTS)
