"""Chunks come whole and right, or not at all."""

import hashlib
import random
import threading

import pytest

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.repository import chunk_reader
from airflow_pg_s3.core.repository.chunk_reader import read_chunks
from airflow_pg_s3.core.repository.codec import Decoder, Encoder
from airflow_pg_s3.core.repository.members import Chunk, Chunks
from airflow_pg_s3.core.s3.download import Downloader

ID, OTHER = "20261122T030000Z-5f3a9c", "20261121T030000Z-00002a"
CONTENTS = [random.Random(number).randbytes(20_000) for number in range(6)]


@pytest.fixture
def stored(s3_client, bucket):
    """Six chunks in two runs, of which the third lies in another backup's folder."""
    encode = Encoder(level=1).for_chunks()
    runs, chunks = {}, Chunks()
    for number, content in enumerate(CONTENTS):
        key = f"{OTHER}/000007.zst" if number == 2 else f"{ID}/000001.zst"
        run = runs.setdefault(key, bytearray(b"of somebody else" if number == 2 else b""))
        frame = encode(memoryview(content))
        chunks.append(Chunk(hashlib.sha256(content).digest(), len(content), key, len(run), len(frame)))
        run += frame
    for key, run in runs.items():
        s3_client.put_object(Bucket=bucket, Key=f"p/shop/{key}", Body=bytes(run))
    return chunks


@pytest.fixture
def read(s3_client, bucket, monkeypatch):
    """Chunks → iterator over what is read of them, by ranges of two chunks."""
    monkeypatch.setattr(chunk_reader, "RANGE_BYTES", 45_000)
    with Downloader(s3_client, bucket, cancel=threading.Event()) as downloader:
        yield lambda chunks: read_chunks(chunks, "p/shop/", downloader, Decoder(None))


def test_they_come_in_order_from_whatever_run(read, stored):
    assert list(read(stored)) == CONTENTS
    assert list(read(Chunks())) == []


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("place", [0, 10_000, -1])
def test_nothing_of_a_damaged_chunk_is_handed_on(read, stored, s3_client, bucket, number, place):
    damaged = list(stored)[number]
    key = f"p/shop/{damaged.key}"
    body = bytearray(s3_client.get_object(Bucket=bucket, Key=key)["Body"].read())
    body[damaged.offset + place % damaged.stored_bytes] ^= 1
    s3_client.put_object(Bucket=bucket, Key=key, Body=bytes(body))
    came = read(stored)
    assert [next(came) for _ in range(number)] == CONTENTS[:number]
    where = f"is damaged at byte {damaged.offset} of {damaged.key}: the chunk there"
    with pytest.raises(IntegrityError, match=where):
        next(came)


def test_a_whole_chunk_in_the_place_of_another_is_not_taken_for_it(read, stored):
    first, *others = stored
    exchanged = Chunks()
    exchanged.append(first._replace(sha256=others[0].sha256))
    with pytest.raises(
        IntegrityError, match=f"has SHA-256 {first.sha256.hex()}, but {others[0].sha256.hex()} was"
    ):
        list(read(exchanged))
    longer = Chunks()
    longer.append(first._replace(raw_bytes=20_001))
    with pytest.raises(IntegrityError, match="has 20000 bytes, but 20001 were backed up"):
        list(read(longer))
