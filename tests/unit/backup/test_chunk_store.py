"""A chunk is stored once, and where it lies is known."""

import hashlib
import random
import threading
import time

import pytest

from airflow_pg_s3.core.backup.chunk_store import ChunkStore, RunWriter
from airflow_pg_s3.core.backup.known_chunks import KnownChunks
from airflow_pg_s3.core.repository.codec import Decoder, Encoder
from airflow_pg_s3.core.repository.members import Chunk
from airflow_pg_s3.core.repository.run_trailer import LONGEST_TRAILER_BYTES, MOST_CHUNKS, read_trailer
from airflow_pg_s3.core.s3.upload import Uploader

ID, OTHER = "20261122T030000Z-5f3a9c", "20261121T030000Z-00002a"
FOLDER = f"prefix/shop/{ID}/"
noise = random.Random(0).randbytes(100_000)


def known_of(*chunks):
    known = KnownChunks()
    for chunk in chunks:
        known.add(chunk)
    return known


@pytest.fixture
def store(s3_client, bucket, cancel):
    """Make a store; leaving it waits until all is stored."""
    with Uploader(s3_client, bucket, cancel=cancel) as uploader:

        def wait():
            while uploader.is_busy:
                time.sleep(0.001)
            uploader.raise_if_failed()

        def make(*earlier, **settings):
            made = ChunkStore(uploader, Encoder(level=1), known_of(*earlier), folder=FOLDER, **settings)
            made.wait = wait
            return made

        yield make


@pytest.fixture
def read(s3_client, bucket):
    """Chunk → its raw bytes, as S3 has them."""

    def read(chunk):
        run = s3_client.get_object(Bucket=bucket, Key=f"prefix/shop/{chunk.key}")["Body"].read()
        stored = run[chunk.offset : chunk.offset + chunk.stored_bytes]
        return Decoder(None).decode_chunk(stored, chunk.raw_bytes)

    return read


def test_new_chunks_lie_behind_one_another_in_runs(store, read, bucket, keys_of):
    made = store(run_bytes=25_000)
    writer = RunWriter(made)
    contents = [noise[start : start + 10_000] for start in range(0, 70_000, 10_000)]
    chunks = [writer.write(memoryview(content)) for content in contents]
    writer.end_run()
    writer.end_run()
    made.wait()
    assert keys_of(bucket) == [f"{FOLDER}00000{number}.zst" for number in (1, 2, 3)]
    assert [read(chunk) for chunk in chunks] == contents
    assert [chunk.sha256 for chunk in chunks] == [hashlib.sha256(content).digest() for content in contents]
    assert [chunk.key for chunk in chunks] == [f"{ID}/000001.zst"] * 3 + [f"{ID}/000002.zst"] * 3 + [
        f"{ID}/000003.zst"
    ]
    assert (made.chunks, made.new_chunks) == (7, 7)
    assert made.stored_bytes == made.new_stored_bytes == sum(chunk.stored_bytes for chunk in chunks)


def test_a_run_lists_its_chunks_at_its_end(store, s3_client, bucket):
    made = store()
    writer = RunWriter(made)
    chunks = [writer.write(memoryview(noise[start : start + 100])) for start in range(0, 10_100, 100)]
    writer.end_run()
    made.wait()
    assert [chunk.key[-10:-4] for chunk in chunks] == ["000001"] * MOST_CHUNKS + ["000002"]
    for key, listed in ((chunks[0].key, chunks[:MOST_CHUNKS]), (chunks[-1].key, chunks[MOST_CHUNKS:])):
        run = s3_client.get_object(Bucket=bucket, Key=f"prefix/shop/{key}")["Body"].read()
        assert read_trailer(key, len(run), run[-LONGEST_TRAILER_BYTES:]) == listed


def test_a_repeated_chunk_is_stored_once(store, bucket, keys_of):
    made = store()
    writer, other = RunWriter(made), RunWriter(made)
    first = writer.write(memoryview(noise[:1000]))
    assert writer.write(memoryview(noise[:1000])) == first
    assert other.write(memoryview(noise[:1000])) == first
    writer.end_run()
    other.end_run()
    made.wait()
    assert (made.chunks, made.new_chunks) == (1, 1)
    assert keys_of(bucket) == [f"{FOLDER}000001.zst"]


def test_a_chunk_of_an_earlier_backup_is_referred_to(store, bucket, keys_of):
    earlier = Chunk(hashlib.sha256(noise[:1000]).digest(), 1000, f"{OTHER}/000007.zst", 5_000_000_000, 77)
    made = store(earlier)
    writer = RunWriter(made)
    assert writer.write(memoryview(noise[:1000])) == earlier
    assert writer.write(memoryview(noise[:1000])) == earlier
    writer.end_run()
    assert keys_of(bucket) == []
    assert (made.chunks, made.new_chunks, made.stored_bytes, made.new_stored_bytes) == (1, 0, 77, 0)


def test_two_threads_with_one_new_chunk_store_it_once(store, read, monkeypatch):
    made = store()
    together = threading.Barrier(2, timeout=60)
    claim = ChunkStore.claim

    def claim_together(self, chunk):
        together.wait()
        return claim(self, chunk)

    monkeypatch.setattr(ChunkStore, "claim", claim_together)
    found = []

    def write():
        writer = RunWriter(made)
        found.append(writer.write(memoryview(noise)))
        writer.end_run()

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.wait()
    assert found[0] == found[1]
    assert read(found[0]) == noise
    assert (made.chunks, made.new_chunks) == (1, 1)


def test_the_first_of_equal_chunks_counts():
    first = Chunk(b"d" * 32, 10, f"{ID}/000001.zst", 0, 5)
    known = known_of(first, first._replace(key=f"{OTHER}/000001.zst"))
    assert len(known) == 1
    assert known.use(b"d" * 32) == (first, True)
    assert known.use(b"d" * 32) == (first, False)
    assert known.use(b"e" * 32) is None


def test_many_chunks_are_found_and_no_others():
    digests = [hashlib.sha256(b"%d" % number).digest() for number in range(20_000)]
    # Some of them belong to the same place.
    digests += [digests[0][:8] + digest[8:] for digest in digests[1:101]]
    chunks = [Chunk(d, n + 1, f"{ID}/{n % 7:06d}.zst", n, n + 2) for n, d in enumerate(digests[::2])]
    known = known_of(*chunks)
    assert len(known) == len(chunks)
    assert [known.use(chunk.sha256) for chunk in chunks] == [(chunk, True) for chunk in chunks]
    assert not any(known.use(digest) for digest in digests[1::2])
