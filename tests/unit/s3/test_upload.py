"""Streams of any length become equal parts in volumes; what is not finished leaves nothing behind."""

import contextlib
import io
import random
import threading
import time

import moto.s3.models
import pytest
from botocore.exceptions import ConnectTimeoutError
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum

from airflow_pg_s3.core.errors import Cancelled, StorageError
from airflow_pg_s3.core.s3.requests import StoredObject
from airflow_pg_s3.core.s3.upload import PartBody, Uploader

SMALLEST_PART = 5 << 20  # that S3 takes
PART = 256 << 10
VOLUME = 2 * PART
noise = random.Random(0).randbytes(5 * PART // 2 + 1)


def stream_of(size):
    return (noise * (size // len(noise) + 1))[:size]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Let our S3 take small parts, as crossing each edge with large ones takes long."""
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", PART)


@pytest.fixture
def uploader(s3_client, bucket, cancel):
    def make(client=s3_client, **settings):
        return Uploader(client, bucket, cancel=cancel, **{"part_bytes": PART, "parts_per_volume": 2, **settings})

    return make


@pytest.fixture
def requests(new_s3_client):
    """A client, and what it asks S3 for: (operation, parameters)."""
    client, asked = new_s3_client(), []
    client.meta.events.register(
        "before-parameter-build.s3", lambda params, model, **_: asked.append((model.name, dict(params)))
    )
    return client, asked


def fail(client, operation, *, at=1, error=None):
    """Let the client fail at its `at`-th request of an operation."""
    seen = []

    def handler(**_):
        seen.append(operation)
        if len(seen) == at:
            raise error or ConnectTimeoutError(endpoint_url="s3")

    client.meta.events.register(f"before-send.s3.{operation}", handler)


@pytest.mark.parametrize(
    ("size", "volumes"),
    [
        (0, [0]),
        (1, [1]),
        (PART - 1, [PART - 1]),
        (PART, [PART]),
        (PART + 1, [PART + 1]),
        (VOLUME - 1, [VOLUME - 1]),
        (VOLUME, [VOLUME]),
        (VOLUME + 1, [VOLUME, 1]),
        (VOLUME + PART, [VOLUME, PART]),
        (VOLUME + PART + 1, [VOLUME, PART + 1]),
        (2 * VOLUME - 1, [VOLUME, VOLUME - 1]),
        (2 * VOLUME, [VOLUME, VOLUME]),
        (2 * VOLUME + 1, [VOLUME, VOLUME, 1]),
    ],
)
def test_a_stream_goes_into_volumes_of_equal_parts(
    uploader, requests, s3_client, bucket, uploads_of, size, volumes
):
    client, asked = requests
    whole = stream_of(size)
    with uploader(client) as ours:
        stream = ours.open("a/5.dat")
        for start in range(0, size, 100_001):
            stream.write(whole[start : start + 100_001])
            assert stream.stored_bytes == min(start + 100_001, size)
        objects = stream.close()
    names = ["a/5.dat", "a/5.dat.001", "a/5.dat.002"]
    assert objects == [StoredObject(key=k, stored_bytes=n) for k, n in zip(names, volumes, strict=False)]
    stored = b"".join(s3_client.get_object(Bucket=bucket, Key=o.key)["Body"].read() for o in objects)
    assert stored == whole
    assert ours.stored_bytes == stream.stored_bytes == size
    assert uploads_of(bucket) == []
    # All parts but an object's last are of one size, and what fits into one part is one request.
    sizes = {}
    for operation, params in asked:
        if operation == "UploadPart":
            sizes.setdefault(params["Key"], {})[params["PartNumber"]] = len(params["Body"])
    assert set(sizes) == {o.key for o in objects if o.stored_bytes > PART}
    for parts in sizes.values():
        assert sorted(parts) == [*range(1, len(parts) + 1)]
        assert [parts[number] for number in sorted(parts)][:-1] == [PART] * (len(parts) - 1)


def test_the_smallest_parts_that_s3_takes_are_taken(uploader, monkeypatch, s3_client, bucket):
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", SMALLEST_PART)
    whole = stream_of(2 * SMALLEST_PART + 1)
    with uploader(part_bytes=SMALLEST_PART) as ours:
        stream = ours.open("5.dat")
        stream.write(whole)
        objects = stream.close()
    assert [o.stored_bytes for o in objects] == [2 * SMALLEST_PART, 1]
    assert s3_client.get_object(Bucket=bucket, Key="5.dat")["Body"].read() == whole[:-1]


@pytest.mark.parametrize("chunk", [1000, PART, PART + 1, 3 * PART])
def test_the_size_of_writes_does_not_matter(uploader, s3_client, bucket, chunk):
    whole = stream_of(VOLUME + PART + 7)
    with uploader() as ours:
        stream = ours.open("5.dat")
        for start in range(0, len(whole), chunk):
            stream.write(whole[start : start + chunk])
        objects = stream.close()
    stored = b"".join(s3_client.get_object(Bucket=bucket, Key=o.key)["Body"].read() for o in objects)
    assert stored == whole


def test_nothing_is_visible_before_a_stream_is_closed(uploader, bucket, keys_of):
    with uploader() as ours:
        stream = ours.open("5.dat")
        stream.write(stream_of(VOLUME))
        assert keys_of(bucket) == []
        stream.close()
        assert keys_of(bucket) == ["5.dat"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_is_open_when_the_block_raises_is_aborted_and_what_is_closed_stays(
    uploader, bucket, keys_of, uploads_of, error
):
    with contextlib.suppress(error), uploader() as ours:
        done = ours.open("done.dat")
        done.write(b"done")
        done.close()
        begun = [ours.open(f"{number}.dat") for number in range(3)]
        for stream in begun:
            stream.write(stream_of(PART + 1))
        assert len(uploads_of(bucket)) == 3
        raise error
    assert uploads_of(bucket) == []
    assert keys_of(bucket) == ["done.dat"]


def test_a_stream_that_is_never_closed_is_aborted_also_when_all_went_well(uploader, bucket, keys_of, uploads_of):
    with uploader() as ours:
        ours.open("5.dat").write(stream_of(PART + 1))
    assert uploads_of(bucket) == []
    assert keys_of(bucket) == []


@pytest.mark.parametrize(
    ("operation", "at"),
    [
        ("CreateMultipartUpload", 1),
        ("CreateMultipartUpload", 2),
        ("UploadPart", 1),
        ("UploadPart", 2),
        ("UploadPart", 3),
        ("CompleteMultipartUpload", 1),
        ("CompleteMultipartUpload", 2),
        ("PutObject", 1),
    ],
)
def test_whichever_request_fails_the_error_names_it_and_nothing_half_done_stays(
    uploader, new_s3_client, bucket, keys_of, uploads_of, operation, at
):
    client = new_s3_client()
    fail(client, operation, at=at)

    def upload():
        with uploader(client) as ours:
            stream = ours.open("5.dat")
            for _ in range(4):
                stream.write(stream_of(PART))
            stream.write(b"last")
            stream.close()

    with pytest.raises(StorageError, match=rf"S3 {operation}.* of 5\.dat(\.00\d)? failed: "):
        upload()
    assert uploads_of(bucket) == []
    # Whole volumes of before may be there; who stages the backup removes them.
    assert set(keys_of(bucket)) <= {"5.dat", "5.dat.001"}


def test_a_part_that_failed_stops_the_stream_at_its_next_part(uploader, new_s3_client):
    client = new_s3_client()
    fail(client, "UploadPart")
    with uploader(client, parts_per_volume=256) as ours:
        stream = ours.open("5.dat")
        stream.write(stream_of(PART + 1))
        while not stream._parts[0].done():
            time.sleep(0.001)
        with pytest.raises(StorageError, match=r"S3 UploadPart 1 of 5\.dat failed"):
            stream.write(stream_of(PART))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_parts_in_flight_are_bounded_over_all_streams(uploader, new_s3_client, in_flight):
    client = new_s3_client()
    lock, flying, most, full = threading.Lock(), [], [], threading.Event()

    def begin(**_):
        with lock:
            flying.append(1)
            most.append(len(flying))
        if len(flying) >= in_flight:
            full.set()
        # The first ones wait for one another, and a moment longer for those that should not come.
        full.wait(60)
        time.sleep(0.02)

    client.meta.events.register("before-send.s3.UploadPart", begin)
    client.meta.events.register("after-call.s3.UploadPart", lambda **_: flying.pop())
    with uploader(client, parts_in_flight=in_flight, parts_per_volume=256) as ours:

        def write(number):
            stream = ours.open(f"{number}.dat")
            stream.write(stream_of(2 * PART + 1))
            stream.close()

        threads = [threading.Thread(target=write, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(most) == 9
    assert max(most) == in_flight


def test_whoever_waits_for_room_holds_no_more_than_the_parts_in_flight_and_one(uploader, new_s3_client, cancel):
    client = new_s3_client()
    go_on = threading.Event()
    client.meta.events.register("before-send.s3.UploadPart", lambda **_: go_on.wait(60) and None)
    with uploader(client, parts_in_flight=2, parts_per_volume=256) as ours:
        stream = ours.open("5.dat")
        writer = threading.Thread(target=stream.write, args=[stream_of(5 * PART)])
        writer.start()
        while len(stream._parts) < 2:
            time.sleep(0.001)
        writer.join(0.05)
        assert writer.is_alive()
        assert len(stream._parts) == 2
        assert stream.stored_bytes == 3 * PART
        go_on.set()
        writer.join()
        stream.close()


def test_waiting_for_room_can_be_cancelled(uploader, new_s3_client, cancel, bucket, uploads_of):
    client = new_s3_client()
    go_on = threading.Event()
    client.meta.events.register("before-send.s3.UploadPart", lambda **_: go_on.wait(60) and None)
    with uploader(client, parts_in_flight=1, parts_per_volume=256) as ours:
        stream = ours.open("5.dat")
        threading.Timer(0.05, cancel.set).start()
        with pytest.raises(Cancelled, match=r"stopped while uploading 5\.dat"):
            stream.write(stream_of(5 * PART))
        assert not go_on.is_set()
        go_on.set()
    assert uploads_of(bucket) == []


def test_waiting_for_the_last_part_can_be_cancelled(uploader, new_s3_client, cancel):
    client = new_s3_client()
    go_on = threading.Event()
    client.meta.events.register("before-send.s3.UploadPart", lambda **_: go_on.wait(60) and None)
    with uploader(client) as ours:
        stream = ours.open("5.dat")
        stream.write(stream_of(PART + 1))
        threading.Timer(0.05, cancel.set).start()
        with pytest.raises(Cancelled, match=r"stopped while uploading 5\.dat"):
            stream.close()
        go_on.set()


def test_leaving_the_block_with_an_error_stops_what_is_being_sent(uploader, new_s3_client, cancel):
    client = new_s3_client()
    sending, stopped = threading.Event(), []

    def send(**_):
        sending.set()
        stopped.append(cancel.wait(60))

    client.meta.events.register("before-send.s3.UploadPart", send)
    with contextlib.suppress(ValueError), uploader(client) as ours:
        ours.open("5.dat").write(stream_of(PART + 1))
        assert sending.wait(60)
        raise ValueError
    assert stopped == [True]
    assert ours.stored_bytes == 0


@pytest.mark.parametrize("mode", ["legacy", "standard"])
@pytest.mark.parametrize("size", [PART // 2, PART + 1], ids=["PutObject", "UploadPart"])
def test_cancelling_stops_what_is_being_sent_at_once_and_it_is_not_tried_again(
    uploader, new_s3_client, cancel, bucket, uploads_of, keys_of, monkeypatch, mode, size
):
    client = new_s3_client(retries={"mode": mode, "total_max_attempts": 5})
    sending, reads = threading.Event(), []
    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-send.s3.{operation}", lambda **_: sending.set())
    read = PartBody.read

    def read_and_cancel(self, amount=-1):
        # The first pass over the body is for its signature.
        if sending.is_set() and self.tell() > 0:
            cancel.set()
        if cancel.is_set():
            reads.append(self.tell())
        # Half of it at most: of a body that has come whole, but for its checksum, moto makes an object.
        half = max(len(self) // 2, 1)
        return read(self, half if amount is None or amount < 0 else min(amount, half))

    monkeypatch.setattr(PartBody, "read", read_and_cancel)
    stopped = pytest.raises(Cancelled, match=r"stopped while uploading 5\.dat")
    with uploader(client) as ours, stopped, contextlib.closing(ours.open("5.dat")) as stream:
        stream.write(stream_of(size))
    assert 1 <= len(reads) <= 2  # one for each part in flight
    assert ours.stored_bytes == 0
    assert uploads_of(bucket) == []
    assert keys_of(bucket) == []


def test_a_broken_connection_is_tried_again_from_the_beginning_of_the_part(
    uploader, new_s3_client, s3_client, bucket
):
    client = new_s3_client(retries={"mode": "standard", "total_max_attempts": 2})
    broken = []

    def read_and_break(**_):
        if not broken:
            broken.append(True)
            raise ConnectTimeoutError(endpoint_url="s3")

    client.meta.events.register("before-send.s3.PutObject", read_and_break)
    with uploader(client) as ours:
        stream = ours.open("5.dat")
        stream.write(b"data")
        stream.close()
    assert broken
    assert s3_client.get_object(Bucket=bucket, Key="5.dat")["Body"].read() == b"data"


def test_extra_arguments_go_to_the_operations_that_accept_them_and_to_no_other(
    uploader, requests, bucket, s3_client
):
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
        for name, size in (("1.dat", 10), ("2.dat", PART + 1)):
            stream = ours.open(name)
            stream.write(stream_of(size))
            stream.close()
    passed = {operation: set(params) & set(extra) for operation, params in asked}
    everything = set(extra) - {"Nonsense"}
    assert passed == {
        "PutObject": everything,
        "CreateMultipartUpload": everything,
        "UploadPart": {"ChecksumAlgorithm", "RequestPayer"},
        "CompleteMultipartUpload": {"RequestPayer"},
    }
    for name in ("1.dat", "2.dat"):
        head = s3_client.head_object(Bucket=bucket, Key=name)
        assert (head["ServerSideEncryption"], head["Metadata"]) == ("AES256", {"team": "data"})


def test_our_own_arguments_go_before_extra_ones(uploader, bucket, keys_of):
    with uploader(extra_args={"Key": "evil", "Bucket": "evil", "Body": b"evil"}) as ours:
        stream = ours.open("5.dat")
        stream.write(b"data")
        stream.close()
    assert keys_of(bucket) == ["5.dat"]


def test_each_part_is_completed_with_the_checksum_that_s3_answered(uploader, requests):
    client, asked = requests
    with uploader(client, extra_args={"ChecksumAlgorithm": "CRC32"}) as ours:
        stream = ours.open("5.dat")
        stream.write(stream_of(PART + 1))
        stream.close()
    (completed,) = [params for operation, params in asked if operation == "CompleteMultipartUpload"]
    for number, part in enumerate(completed["MultipartUpload"]["Parts"], start=1):
        assert part["PartNumber"] == number
        assert set(part) == {"PartNumber", "ETag", "ChecksumCRC32"}


class TestAPartAsABody:
    data = bytes(range(256)) * 10

    @pytest.fixture
    def body(self, cancel):
        return PartBody(bytearray(self.data), cancel)

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


@pytest.fixture
def completing_twice(requests, monkeypatch):
    """A client that loses its first answer to a completion, whereupon `meanwhile` happens; what it asks for."""
    client, asked = requests
    complete = client.complete_multipart_upload

    def make(meanwhile=lambda: None):
        def try_again(**arguments):
            complete(**arguments)
            meanwhile()
            # moto would say that all is well.
            raise client.exceptions.NoSuchUpload({"Error": {"Code": "NoSuchUpload"}}, "CompleteMultipartUpload")

        monkeypatch.setattr(client, "complete_multipart_upload", try_again)
        return client, asked

    return make


def test_a_lost_answer_to_the_completion_is_no_failure_and_takes_no_right_to_read(uploader, completing_twice):
    client, asked = completing_twice()
    with uploader(client) as uploads:
        stream = uploads.open("a")
        stream.write(stream_of(PART + 1))
        assert stream.close() == [StoredObject(key="a", stored_bytes=PART + 1)]
    assert {"HeadObject", "GetObject"}.isdisjoint(operation for operation, _ in asked)


@pytest.mark.parametrize("other", [None, b"shorter"])
def test_an_upload_that_is_gone_without_its_object_is_an_error(
    uploader, completing_twice, s3_client, bucket, other
):
    def meanwhile():
        s3_client.put_object(Bucket=bucket, Key="a.001", Body=stream_of(PART + 1))
        s3_client.delete_object(Bucket=bucket, Key="a")
        if other is not None:
            s3_client.put_object(Bucket=bucket, Key="a", Body=other)

    client, _ = completing_twice(meanwhile)
    with uploader(client) as uploads:
        stream = uploads.open("a")
        stream.write(stream_of(PART + 1))
        with pytest.raises(StorageError, match="NoSuchUpload"):
            stream.close()
