"""A member's digest and rows do not depend on how its bytes came in pieces."""

import hashlib
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_pg_s3.core.repository.digest import COPY_TERMINATOR, MemberDigest, MemberHasher

# Bytes of the kind that the terminator is made of, so that near misses of it are common.
pieces = st.sampled_from([b"\\", b".", b"\n", b"1\t2\n", b"\\.\n", COPY_TERMINATOR, b"x" * 7])
copy_like = st.lists(pieces).map(b"".join)


def digest_of(chunks):
    digest = MemberHasher()
    for chunk in chunks:
        digest.update(chunk)
    assert digest.raw_bytes == sum(map(len, chunks))
    return digest.finish()


def expected(whole):
    """The same by hashlib, from all of it at once."""
    rows = None
    if whole.endswith(COPY_TERMINATOR):
        rows = whole.removesuffix(COPY_TERMINATOR).count(b"\n")
    return MemberDigest(raw_bytes=len(whole), sha256=hashlib.sha256(whole).hexdigest(), copy_rows=rows)


def cut(whole, places):
    edges = [0, *sorted(places), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(edges)]


@given(copy_like | st.binary(max_size=40), st.sampled_from([b"", COPY_TERMINATOR]), st.data())
def test_every_chunking_gives_what_hashlib_gives_for_the_whole(start, end, data):
    whole = start + end
    places = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    assert digest_of(cut(whole, places)) == expected(whole)


@pytest.mark.parametrize("size", range(1, 12))
def test_chunks_of_any_one_size_give_the_same(size):
    whole = b"1\tone\n2\t\\\\.\\n\n3\t\n" + COPY_TERMINATOR
    assert digest_of([whole[i : i + size] for i in range(0, len(whole), size)]) == expected(whole)


@given(st.integers(0, 25), st.integers(0, 25))
@example(20, 21)
def test_a_terminator_is_found_wherever_it_is_cut(first, second):
    whole = b"some row of text\n" + b"a\n" + COPY_TERMINATOR
    found = digest_of(cut(whole, [min(first, len(whole)), min(second, len(whole))]))
    assert found.copy_rows == 2


@pytest.mark.parametrize(
    ("whole", "rows"),
    [
        pytest.param(COPY_TERMINATOR, 0, id="an empty table"),
        pytest.param(b"1\n" + COPY_TERMINATOR, 1, id="one row"),
        pytest.param(b"\n\n" + COPY_TERMINATOR, 2, id="rows without columns"),
        pytest.param(b"\\\\.\n" + COPY_TERMINATOR, 1, id="a value that looks like its beginning"),
        pytest.param(COPY_TERMINATOR + b"1\n" + COPY_TERMINATOR, 4, id="a terminator in the middle"),
        pytest.param(COPY_TERMINATOR * 2, 3, id="two terminators"),
        pytest.param(b"\n" + COPY_TERMINATOR, 1, id="an empty value"),
    ],
)
def test_each_newline_before_the_terminator_is_a_row(whole, rows):
    assert digest_of([whole]).copy_rows == rows


@pytest.mark.parametrize(
    "whole",
    [b"", b"\n", b"1\n", b"\\.\n\n", b"\\.\n", b"1\n\\.\n\n", b".\n\n\n", COPY_TERMINATOR + b"1\n", b"\x00PGDMP"],
)
def test_what_does_not_end_as_table_data_does_has_no_rows(whole):
    found = digest_of([whole])
    assert found.copy_rows is None
    assert found.sha256 == hashlib.sha256(whole).hexdigest()


def test_nothing_at_all_is_the_empty_member():
    assert digest_of([]) == expected(b"")


def test_a_digest_that_nobody_needs_is_not_computed():
    hasher = MemberHasher(hashes=False)
    hasher.update(b"1\n" + COPY_TERMINATOR)
    assert hasher.finish() == MemberDigest(raw_bytes=7, copy_rows=1, sha256=None)
