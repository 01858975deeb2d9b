"""Objects are stored a few at a time, each in one request; what fails or is stopped is said at once."""

import contextlib
import io
import random
import threading
import time

import pytest
from botocore.exceptions import ConnectTimeoutError
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum

from airflow_pg_s3.core.errors import Cancelled, StorageError
from airflow_pg_s3.core.s3.upload import RequestBody, Uploader

SIZE = 256 << 10
noise = random.Random(0).randbytes(SIZE)


@pytest.fixture
def uploader(s3_client, bucket, cancel):
    def make(client=s3_client, **settings):
        return Uploader(client, bucket, cancel=cancel, **settings)

    return make


@pytest.fixture
def requests(new_s3_client):
    """A client, and what it asks S3 for: (operation, parameters)."""
    client, asked = new_s3_client(), []
    client.meta.events.register(
        "before-parameter-build.s3", lambda params, model, **_: asked.append((model.name, dict(params)))
    )
    return client, asked


@pytest.fixture
def held_back(new_s3_client):
    """A client whose requests wait for `go_on`."""
    client, go_on = new_s3_client(), threading.Event()
    client.meta.events.register("before-send.s3.PutObject", lambda **_: go_on.wait(60) and None)
    return client, go_on


def finish(ours):
    while ours.is_busy:
        time.sleep(0.001)
    ours.raise_if_failed()


def fail(client, *, at=1):
    """Let the client fail at its `at`-th request."""
    seen = []

    def handler(**_):
        seen.append(at)
        if len(seen) == at:
            raise ConnectTimeoutError(endpoint_url="s3")

    client.meta.events.register("before-send.s3.PutObject", handler)


@pytest.mark.parametrize("size", [0, 1, SIZE])
def test_an_object_is_one_request(uploader, requests, s3_client, bucket, size):
    client, asked = requests
    with uploader(client) as ours:
        ours.store("a/1.zst", bytearray(noise[:size]))
        ours.store("a/2.zst", b"more")
        finish(ours)
        assert ours.stored_bytes == size + 4
        assert s3_client.get_object(Bucket=bucket, Key="a/1.zst")["Body"].read() == noise[:size]
        assert s3_client.get_object(Bucket=bucket, Key="a/2.zst")["Body"].read() == b"more"
    assert [operation for operation, _ in asked] == ["PutObject", "PutObject"]


def test_each_object_goes_with_a_checksum(uploader, requests, s3_client, bucket):
    client, _ = requests
    with uploader(client) as ours:
        ours.store("1.zst", noise)
        finish(ours)
    head = s3_client.head_object(Bucket=bucket, Key="1.zst", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_whichever_request_fails_the_error_names_its_object(uploader, new_s3_client, at):
    client = new_s3_client()
    fail(client, at=at)

    def upload():
        with uploader(client, in_flight=1) as ours:
            for number in range(1, 4):
                ours.store(f"{number}.zst", b"data")
            finish(ours)

    with pytest.raises(StorageError, match=rf"S3 PutObject of {at}\.zst failed: "):
        upload()


def test_whoever_looks_and_the_next_object_learn_of_a_failure(uploader, new_s3_client, cancel):
    client = new_s3_client()
    fail(client)
    with uploader(client) as ours:
        ours.raise_if_failed()
        ours.store("1.zst", b"data")
        with pytest.raises(StorageError, match=r"S3 PutObject of 1\.zst failed"):
            finish(ours)
        with pytest.raises(StorageError, match=r"S3 PutObject of 1\.zst failed"):
            ours.raise_if_failed()
        with pytest.raises(StorageError, match=r"S3 PutObject of 1\.zst failed"):
            ours.store("2.zst", b"data")


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_objects_in_flight_are_bounded(uploader, new_s3_client, in_flight):
    client = new_s3_client()
    lock, flying, most, full = threading.Lock(), [], [], threading.Event()

    def begin(**_):
        with lock:
            flying.append(1)
            most.append(len(flying))
        if len(flying) >= in_flight:
            full.set()
        # The first ones wait for one another.
        full.wait(60)

    client.meta.events.register("before-send.s3.PutObject", begin)
    client.meta.events.register("after-call.s3.PutObject", lambda **_: flying.pop())
    with uploader(client, in_flight=in_flight) as ours:

        def store(number):
            for object_number in range(3):
                ours.store(f"{number}/{object_number}.zst", noise)

        threads = [threading.Thread(target=store, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        finish(ours)
    assert len(most) == 9
    assert max(most) == in_flight


def test_whoever_has_no_room_waits(uploader, held_back):
    client, go_on = held_back
    with uploader(client, in_flight=2) as ours:
        stored = []

        def store():
            for number in range(3):
                ours.store(f"{number}.zst", noise)
                stored.append(number)

        writer = threading.Thread(target=store)
        writer.start()
        writer.join(0.05)
        assert stored == [0, 1]
        go_on.set()
        writer.join()
        assert stored == [0, 1, 2]
        finish(ours)


def test_waiting_for_room_can_be_cancelled(uploader, held_back, cancel):
    client, go_on = held_back
    with uploader(client, in_flight=1) as ours:
        ours.store("1.zst", b"data")
        threading.Timer(0.05, cancel.set).start()
        with pytest.raises(Cancelled, match=r"stopped while uploading 2\.zst"):
            ours.store("2.zst", b"data")
        assert not go_on.is_set()
        go_on.set()


def test_leaving_the_block_with_an_error_stops_what_is_being_sent(uploader, new_s3_client, cancel):
    client = new_s3_client()
    sending, stopped = threading.Event(), []

    def send(**_):
        sending.set()
        stopped.append(cancel.wait(60))

    client.meta.events.register("before-send.s3.PutObject", send)
    with contextlib.suppress(ValueError), uploader(client) as ours:
        ours.store("1.zst", noise)
        assert sending.wait(60)
        raise ValueError
    assert stopped == [True]
    assert ours.stored_bytes == 0


@pytest.mark.parametrize("mode", ["legacy", "standard"])
def test_cancelling_stops_what_is_being_sent_at_once_and_it_is_not_tried_again(
    uploader, new_s3_client, cancel, bucket, keys_of, monkeypatch, mode
):
    client = new_s3_client(retries={"mode": mode, "total_max_attempts": 5})
    sending, reads = threading.Event(), []
    client.meta.events.register("before-send.s3.PutObject", lambda **_: sending.set())
    read = RequestBody.read

    def read_and_cancel(self, amount=-1):
        # The first pass over the body is for its signature.
        if sending.is_set() and self.tell() > 0:
            cancel.set()
        if cancel.is_set():
            reads.append(self.tell())
        # Half of it at most: of a body that has come whole, but for its checksum, moto makes an object.
        half = max(len(self) // 2, 1)
        return read(self, half if amount is None or amount < 0 else min(amount, half))

    monkeypatch.setattr(RequestBody, "read", read_and_cancel)
    with uploader(client) as ours:
        ours.store("5.zst", noise)
        with pytest.raises(Cancelled, match=r"stopped while uploading 5\.zst"):
            finish(ours)
    assert len(reads) == 1
    assert ours.stored_bytes == 0
    assert keys_of(bucket) == []


def test_a_broken_connection_is_tried_again_from_the_beginning(uploader, new_s3_client, s3_client, bucket):
    client = new_s3_client(retries={"mode": "standard", "total_max_attempts": 2})
    fail(client)
    with uploader(client) as ours:
        ours.store("5.zst", b"data")
        finish(ours)
    assert s3_client.get_object(Bucket=bucket, Key="5.zst")["Body"].read() == b"data"


def test_extra_arguments_go_with_what_accepts_them(uploader, requests, bucket, s3_client):
    client, asked = requests
    extra = {
        "ServerSideEncryption": "AES256",
        "StorageClass": "STANDARD_IA",
        "Metadata": {"team": "data"},
        "ChecksumAlgorithm": "SHA256",
        "RequestPayer": "requester",
        "Nonsense": "x",
    }
    with uploader(client, extra_args=extra) as ours:
        ours.store("1.zst", b"data")
        finish(ours)
    ((_, params),) = asked
    assert set(params) & set(extra) == set(extra) - {"Nonsense"}
    head = s3_client.head_object(Bucket=bucket, Key="1.zst")
    assert (head["ServerSideEncryption"], head["Metadata"]) == ("AES256", {"team": "data"})


def test_our_own_arguments_go_before_extra_ones(uploader, bucket, keys_of):
    with uploader(extra_args={"Key": "evil", "Bucket": "evil", "Body": b"evil"}) as ours:
        ours.store("5.zst", b"data")
        finish(ours)
    assert keys_of(bucket) == ["5.zst"]


class TestAnObjectAsABody:
    data = bytes(range(256)) * 10

    @pytest.fixture
    def body(self, cancel):
        return RequestBody(bytearray(self.data), cancel)

    def test_reads_like_a_file(self, body):
        like = io.BytesIO(self.data)
        assert len(body) == len(self.data)
        for amount in (0, 1, 1000, 5000, -1):
            assert bytes(body.read(amount)) == like.read(amount)
            assert body.tell() == like.tell()
        for place, whence in ((0, 0), (10, 0), (5, 1), (-7, 2), (0, 2)):
            assert body.seek(place, whence) == like.seek(place, whence)
            assert bytes(body.read(3)) == like.read(3)
        body.seek(0)
        assert bytes(body.read(None)) == self.data
        assert not body.read(1)

    def test_survives_the_wrapper_that_the_client_uses_over_https(self, body):
        # Our S3 in these tests speaks http, where the client signs the body instead.
        wrapped = AwsChunkedWrapper(body, checksum_cls=Crc32Checksum, checksum_name="x-amz-checksum-crc32")
        expected = AwsChunkedWrapper(
            io.BytesIO(self.data), checksum_cls=Crc32Checksum, checksum_name="x-amz-checksum-crc32"
        )
        assert wrapped.read() == expected.read()
