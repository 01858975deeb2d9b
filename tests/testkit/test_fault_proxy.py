"""The proxy passes everything through unchanged, and every fault of it really happens."""

from collections.abc import Iterator

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from testkit.fault_proxy import (
    EXPIRED,
    INTERNAL_ERROR,
    SLOW_DOWN,
    TOO_MANY,
    Corrupt,
    FailLate,
    FaultProxy,
    Reset,
    StaleList,
    Stall,
    Truncate,
    at,
    since,
)
from testkit.s3 import S3Server

BODY = bytes(range(256)) * 100
KEY = "a b/ü%2F.x"


@pytest.fixture
def proxy(s3: S3Server, bucket: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3) as running:
        running.client().put_object(Bucket=bucket, Key=KEY, Body=BODY)
        running.reset()
        yield running


def test_it_passes_everything_through(proxy: FaultProxy, s3: S3Server, bucket: str) -> None:
    client = proxy.client()
    upload = client.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    place = {"Bucket": bucket, "Key": "parts", "UploadId": upload}
    etag = client.upload_part(**place, PartNumber=1, Body=BODY)["ETag"]
    assert len(client.list_parts(**place)["Parts"]) == 1
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
    client.complete_multipart_upload(**place, MultipartUpload={"Parts": [{"ETag": etag, "PartNumber": 1}]})
    assert client.head_object(Bucket=bucket, Key="parts")["ContentLength"] == len(BODY)
    assert client.get_object(Bucket=bucket, Key=KEY, Range="bytes=10-99")["Body"].read() == BODY[10:100]
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [entry["Key"] for entry in listed] == [KEY, "parts"]
    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": KEY}]})
    client.delete_object(Bucket=bucket, Key="parts")
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket=bucket, Key=KEY)
    assert [request.operation for request in proxy.requests] == [
        "CreateMultipartUpload",
        "UploadPart",
        "ListParts",
        "ListMultipartUploads",
        "CompleteMultipartUpload",
        "HeadObject",
        "GetObject",
        "ListObjectsV2",
        "DeleteObjects",
        "DeleteObject",
        "GetObject",
    ]
    assert "Contents" not in s3.client().list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize(
    "fault", [SLOW_DOWN, INTERNAL_ERROR, TOO_MANY, Reset("before"), Reset("after"), FailLate()]
)
def test_a_fault_that_passes_is_retried_by_botocore(proxy: FaultProxy, bucket: str, fault: object) -> None:
    proxy.reset(at(0, fault))
    proxy.client().put_object(Bucket=bucket, Key="new", Body=b"new")
    assert len(proxy.faults) == 1
    assert len(proxy.requests) == 2


def test_an_outage_lasts(proxy: FaultProxy, s3: S3Server, bucket: str) -> None:
    proxy.reset(since(0, Reset("after")))
    with pytest.raises(BotoCoreError):
        proxy.client(retries={"total_max_attempts": 2}).put_object(Bucket=bucket, Key="new", Body=b"new")
    assert len(proxy.faults) == 2
    # The server has done its work; only the answers were lost.
    assert s3.client().get_object(Bucket=bucket, Key="new")["Body"].read() == b"new"


@pytest.mark.parametrize("fault", [Reset("midway"), Truncate(), Stall()])
def test_half_a_body_comes(proxy: FaultProxy, bucket: str, fault: object) -> None:
    proxy.reset(at(0, fault))
    body = proxy.client().get_object(Bucket=bucket, Key=KEY)["Body"]
    assert body.read(100) == BODY[:100]
    body.set_socket_timeout(1)  # only now, as a slow first answer would be asked for again
    with pytest.raises(BotoCoreError):
        body.read()


def test_a_bit_of_an_answer_is_flipped(proxy: FaultProxy, bucket: str) -> None:
    proxy.reset(at(0, Corrupt()))
    body = proxy.client(response_checksum_validation="when_required").get_object(Bucket=bucket, Key=KEY)["Body"]
    found = body.read()
    assert [a ^ b for a, b in zip(found, BODY, strict=True) if a != b] == [1]


@pytest.mark.parametrize("s3", ["ceph"], indirect=True)
def test_a_strict_server_notices_a_flipped_bit_of_a_request(proxy: FaultProxy, bucket: str) -> None:
    proxy.reset(at(0, Corrupt()))
    with pytest.raises(ClientError, match=r"Mismatch|BadDigest|Checksum"):
        proxy.client().put_object(Bucket=bucket, Key="new", Body=BODY)


def test_credentials_expire(proxy: FaultProxy, bucket: str) -> None:
    proxy.reset(since(1, EXPIRED))
    client = proxy.client()
    client.get_object(Bucket=bucket, Key=KEY)["Body"].read()
    with pytest.raises(ClientError, match="ExpiredToken"):
        client.get_object(Bucket=bucket, Key=KEY)


def test_a_list_is_stale(proxy: FaultProxy, bucket: str) -> None:
    client = proxy.client()
    client.put_object(Bucket=bucket, Key="z", Body=b"newest")
    proxy.reset(at(0, StaleList()))
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == [KEY]
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == [KEY, "z"]
