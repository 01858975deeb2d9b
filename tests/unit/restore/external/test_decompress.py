"""gzip and zstd end where they say, or the error is ours; what they hold comes in small pieces."""

import contextlib
import gzip
import os
import resource
import subprocess
import sys

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.restore.external.completeness import NotAnArchive
from airflow_pg_s3.core.restore.external.decompress import Compression, unwrap

CHECKSUM = {zstd.CompressionParameter.checksum_flag: 1}
COMPRESS = {
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: lambda data: zstd.compress(data, options=CHECKSUM),
}


# What `zstd --long=31` makes of "abc": a frame with a window of 2 GiB, which holds one block as it is.
WINDOW_OF_2_GIB = bytes([0x28, 0xB5, 0x2F, 0xFD, 0x00, (31 - 10) << 3, (3 << 3) | 1, 0x00, 0x00]) + b"abc"


def in_pieces(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("size", [7, 1 << 20, 1 << 30])
@pytest.mark.parametrize("length", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_what_was_compressed_comes_back(compression, size, length):
    data = (os.urandom(1 << 12) * (length // (1 << 12) + 1))[:length]
    packed = COMPRESS[compression](data)
    pieces = list(unwrap(in_pieces(packed, size), compression))
    assert b"".join(pieces) == data
    assert all(len(piece) <= 1 << 20 for piece in pieces)


@pytest.mark.parametrize("compression", COMPRESS)
def test_several_in_a_row_are_one(compression):
    packed = b"".join(COMPRESS[compression](data) for data in (b"a" * 3000000, b"", b"b"))
    for size in (1, 100, 1 << 20):
        assert b"".join(unwrap(in_pieces(packed, size), compression)) == b"a" * 3000000 + b"b"


def test_zeros_may_follow_gzip_and_nothing_else():
    packed = gzip.compress(b"abc")
    assert b"".join(unwrap([packed + b"\0" * 100, b"\0" * 100], Compression.GZIP)) == b"abc"
    for compression, compress in COMPRESS.items():
        with pytest.raises(IntegrityError, match="cannot be unpacked"):
            list(unwrap([compress(b"abc") + b"more of it"], compression))


@pytest.mark.parametrize("compression", COMPRESS)
def test_every_truncation_is_noticed(compression):
    packed = COMPRESS[compression](os.urandom(100))
    for length in range(len(packed)):
        with pytest.raises(IntegrityError):
            list(unwrap([packed[:length]], compression))


@pytest.mark.parametrize("compression", COMPRESS)
@given(data=st.binary(max_size=300), flips=st.lists(st.integers(0, 299), min_size=1, max_size=4))
def test_damage_gives_our_error_or_none_that_matters(compression, data, flips):
    packed = bytearray(COMPRESS[compression](data))
    for flip in flips:
        packed[flip % len(packed)] ^= 1 << flip % 8
    with contextlib.suppress(IntegrityError, NotAnArchive):
        # gzip's header has a time and flags that nothing depends on.
        assert b"".join(unwrap([bytes(packed)], compression)) == data


def test_the_widest_window_of_zstd_is_taken():
    assert b"".join(unwrap([WINDOW_OF_2_GIB], Compression.ZSTD)) == b"abc"


def test_too_little_memory_is_no_damage():
    script = (
        "from airflow_pg_s3.core.restore.external.decompress import Compression\n"
        "from airflow_pg_s3.core.restore.external.decompress import unwrap\n"
        f"list(unwrap([{WINDOW_OF_2_GIB!r}], Compression.ZSTD))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == (
        "airflow_pg_s3.core.errors.PgS3Error: the archive takes more memory to unpack than the worker has, up to "
        "2 GiB (zstd --long=31): give it more, or unpack the archive first"
    )


def test_a_dictionary_is_no_damage():
    dictionary = zstd.train_dict([os.urandom(200) for _ in range(100)], 1000)
    with pytest.raises(NotAnArchive, match="dictionary"):
        list(unwrap([zstd.compress(b"abc" * 100, zstd_dict=dictionary)], Compression.ZSTD))


def test_without_compression_chunks_pass():
    assert list(unwrap([b"a", b"b"], Compression.NONE)) == [b"a", b"b"]
