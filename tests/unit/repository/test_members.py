"""The list of members is what was written, or it is refused with one clear error, whatever somebody put in."""

import contextlib
import copy
import hashlib
import json
import random

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.repository.manifest import Manifest, MembersFile, Table
from airflow_pg_s3.core.repository.members import Chunk, Chunks, Member, parse_members, runs_of, write_members
from tests.support.stored_backups import ID, manifest_of

OTHER = "20261121T030000Z-00002a"
DIGEST = "0" * 64
PACK = f"{ID}/pack-0001.tar.zst"
RUNS = {OTHER: [(2, 3)], ID: [(1, 1)]}
TOC = {"name": "toc.dat", "raw_bytes": 11, "pack": PACK, "sha256": DIGEST}
DATA = {
    "name": "5.dat",
    "raw_bytes": 60,
    "table": {"schema": "my schema", "name": 'tä"ble\n', "columns": ["a", "B c"], "rows": 3},
    "extents": [
        {
            "key": f"{OTHER}/000002.zst",
            "offset": 7,
            "sha256": [DIGEST, "1" * 64],
            "raw_bytes": [10, 20],
            "stored_bytes": [3, 4],
        },
        {
            "key": f"{ID}/000001.zst",
            "offset": 0,
            "sha256": ["2" * 64],
            "raw_bytes": [30],
            "stored_bytes": [9],
        },
    ],
}


def stored(lines) -> tuple[Manifest, bytes]:
    """A file of these lines, and the manifest of which it is."""
    raw = b"".join(lines)
    data = zstd.compress(raw)
    record = MembersFile(stored_bytes=len(data), raw_bytes=len(raw), sha256=hashlib.sha256(data).hexdigest())
    return manifest_of(runs=RUNS, members=record), data


def parse(*records):
    return list(parse_members(*stored(json.dumps(record).encode() + b"\n" for record in records)))


def chunk(number, key, offset, stored_bytes, raw_bytes=10):
    return Chunk(hashlib.sha256(b"%d" % number).digest(), raw_bytes, key, offset, stored_bytes)


def test_what_is_written_is_what_is_read():
    chunks = Chunks()
    for one in (
        chunk(1, f"{OTHER}/000002.zst", 5, 3),
        chunk(2, f"{OTHER}/000002.zst", 8, 2),
        chunk(3, f"{ID}/000001.zst", 0, 4),
        chunk(1, f"{OTHER}/000002.zst", 5, 3),
    ):
        chunks.append(one)
    table = Table(schema="s", name="t", columns=["a"], rows=2, through_root=True)
    members = [
        Member(name="5.dat", raw_bytes=40, table=table, chunks=chunks),
        Member(name="toc.dat", raw_bytes=3, pack=PACK, sha256=DIGEST),
    ]
    data, record = write_members(members)
    assert record.stored_bytes == len(data)
    read = list(parse_members(manifest_of(runs=RUNS, members=record), data))
    assert [(m.name, m.raw_bytes, m.table, m.pack, m.sha256, m.packed) for m in read] == [
        ("5.dat", 40, table, None, None, False),
        ("toc.dat", 3, None, PACK, DIGEST, True),
    ]
    assert list(read[0].chunks) == list(chunks)
    assert list(read[1].pieces()) == [(3, DIGEST)]
    assert list(read[0].pieces()) == [(10, one.sha256.hex()) for one in chunks]


def test_neighbours_in_a_run_are_one_extent():
    member, _ = parse(DATA, TOC)
    assert [(e.key, e.offset, e.stored_bytes, len(e.chunks)) for e in member.chunks.extents()] == [
        (f"{OTHER}/000002.zst", 7, 7, 2),
        (f"{ID}/000001.zst", 0, 9, 1),
    ]
    assert [(c.offset, c.stored_bytes) for c in member.chunks] == [(7, 3), (10, 4), (0, 9)]
    assert runs_of([member]) == {f"{OTHER}/000002.zst": 14, f"{ID}/000001.zst": 9}


def test_another_version_may_write_neighbours_apart():
    apart = copy.deepcopy(DATA)
    apart["extents"][0] |= {"sha256": [DIGEST], "raw_bytes": [10], "stored_bytes": [3]}
    apart["extents"].insert(
        1, {**DATA["extents"][0], "offset": 10, "sha256": ["1" * 64], "raw_bytes": [20], "stored_bytes": [4]}
    )
    assert list(parse(apart, TOC)[0].chunks) == list(parse(DATA, TOC)[0].chunks)


def test_fields_of_a_later_version_are_passed_over():
    future = copy.deepcopy(DATA)
    for place in (future, future["table"], future["extents"][0]):
        place["from_the_future"] = {"deep": [1]}
    assert list(parse(future, TOC)[0].chunks) == list(parse(DATA, TOC)[0].chunks)


def with_extent(**values):
    return {**DATA, "extents": [DATA["extents"][0] | values, DATA["extents"][1]]}


NO_NAMES = [
    "",
    ".",
    "..",
    "../5.dat",
    "a/../5.dat",
    "/etc/passwd",
    "folder/5.dat",
    ".hidden",
    "-rf",
    "5.dat\0",
    "5.dat\n",
    "5 .dat",
    "a\\b",
    "ünï.dat",
    "%2e%2e",
    "x" * 300,
]
HOSTILE = {
    "two members of one name": ([DATA, DATA, TOC], "'5.dat' is listed twice"),
    "no toc.dat": ([DATA], "toc.dat is missing"),
    "nothing": ([], "toc.dat is missing"),
    "a pack that is not named": ([TOC | {"pack": f"{ID}/x.zst"}], "in a pack that the manifest does not name"),
    "a member in nothing": ([TOC | {"pack": None, "sha256": None}], "must be in one pack"),
    "a member in both": ([DATA | {"pack": PACK, "sha256": DIGEST}, TOC], "must be in one pack"),
    "a pack's without a digest": ([TOC | {"sha256": None}], "must be in one pack"),
    "a run that is not named": ([with_extent(key=f"{OTHER}/000004.zst"), TOC], "none that the manifest names"),
    "another folder": ([with_extent(key="../x/000002.zst"), TOC], "none that the manifest names"),
    "runs of whom nobody could list the numbers": (
        [with_extent(key="20261121T030000Z-00002b/000007.zst"), TOC],
        "none that the manifest names",
    ),
    "a pack for a run": ([with_extent(key=PACK), TOC], "none that the manifest names"),
    "columns that differ": ([with_extent(raw_bytes=[10]), TOC], "differ in length"),
    "chunks of another length": ([with_extent(raw_bytes=[10, 21]), TOC], "are not as long as it is"),
    "a chunk of no bytes": ([with_extent(raw_bytes=[30, 0]), TOC], "extents.0.raw_bytes.1"),
    "a chunk of 65 MiB": ([with_extent(stored_bytes=[3, 65 << 20]), TOC], "extents.0.stored_bytes.1"),
    "a digest that is none": ([with_extent(sha256=[DIGEST, "x"]), TOC], "extents.0.sha256.1"),
    "a negative offset": ([with_extent(offset=-1), TOC], "extents.0.offset"),
    "a negative number of rows": ([DATA | {"table": DATA["table"] | {"rows": -1}}, TOC], "table.rows"),
    "a table that no dump numbers": ([DATA | {"name": "evil.dat"}, TOC], "'evil.dat' cannot be the data"),
    "a list in chunks": ([DATA | {"name": "blobs.toc", "table": None}, TOC], "must be in a pack"),
    "another list": ([TOC | {"name": "blobs.toc.zst"}], "is none that pg_dump writes"),
    "no object": ([[]], "Input should be an object"),
}


@pytest.mark.parametrize(("records", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_hostile_is_refused_with_one_clear_error(records, problem):
    with pytest.raises(IntegrityError) as caught:
        parse(*records)
    text = str(caught.value)
    assert text.startswith(f"{ID}/members.json.zst is refused: ")
    assert problem in text
    assert "\n" not in text


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: repr(name[:20]))
def test_a_member_name_that_is_no_plain_file_name_is_refused(name):
    with pytest.raises(IntegrityError, match="is refused: name"):
        parse(TOC | {"name": name})


def test_a_bomb_unpacks_to_no_more_than_the_manifest_says():
    manifest, data = stored([b"x" * (100 << 20)])
    small = manifest.members.model_copy(update={"raw_bytes": 1000})
    with pytest.raises(IntegrityError, match="does not unpack to 1000 bytes"):
        list(parse_members(manifest.model_copy(update={"members": small}), data))


@given(st.data())
def test_no_byte_can_change_unnoticed(draw):
    manifest, data = stored([json.dumps(TOC).encode() + b"\n"])
    place = draw.draw(st.integers(0, len(data) - 1))
    broken = bytearray(data)
    broken[place] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError, match="not what was stored"):
        list(parse_members(manifest, bytes(broken)))


@given(st.binary(max_size=60), st.integers(0, 600), st.integers(0, 60))
def test_nothing_but_our_error_comes_out_for_damaged_bytes(noise, place, cut):
    raw = json.dumps(DATA).encode() + b"\n" + json.dumps(TOC).encode() + b"\n"
    with contextlib.suppress(IntegrityError):
        list(parse_members(*stored([raw[:place] + noise + raw[place + cut :]])))


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 60))
def test_nothing_but_our_error_comes_out_for_what_is_no_frame(noise, place, cut):
    manifest, data = stored([json.dumps(TOC).encode() + b"\n"])
    data = data[:place] + noise + data[place + cut :]
    record = manifest.members.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    with contextlib.suppress(IntegrityError):
        list(parse_members(manifest.model_copy(update={"members": record}), data))


def test_lines_of_any_length_come_whole():
    rng = random.Random(1)
    chunks = Chunks()
    for number in range(30_000):
        chunks.append(chunk(number, f"{OTHER}/000002.zst", rng.randrange(1 << 30), 5))
    members = [
        Member(name="5.dat", raw_bytes=300_000, chunks=chunks),
        Member(name="toc.dat", raw_bytes=3, pack=PACK, sha256=DIGEST),
    ]
    data, record = write_members(members)
    assert record.raw_bytes > 4 << 20
    read = next(iter(parse_members(manifest_of(runs=RUNS, members=record), data)))
    assert list(read.chunks) == list(chunks)
