"""What every request to S3 shares: URIs, listings, and how a small object is stored once."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError, ResponseStreamingError

from airflow_pg_s3.core.errors import DataConflict, InputError, StorageError
from airflow_pg_s3.core.s3.errors import OutcomeUnknown, is_refused, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef


# Access points stand in for buckets, by their ARN, which has slashes or colons in it; or by an alias.
_ACCESS_POINT = (
    r"arn:[a-z-]+:s3[a-z-]*:[a-z0-9-]*:\d{12}:(?:outpost[/:][a-z0-9-]+[/:])?accesspoint[/:][A-Za-z0-9.-]+"
)
_FORM = "s3://bucket/prefix"
_FORMS = {"backup": "s3://BUCKET/PREFIX/DATABASE/latest"}
_URI = re.compile(rf"s3://([A-Za-z0-9][A-Za-z0-9._-]{{1,254}}|{_ACCESS_POINT})(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object as stored.

    :param key: its full key in the bucket.
    :param stored_bytes: its length.
    """

    key: str
    stored_bytes: int


def supported_args(client: S3Client, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that an S3 operation accepts."""
    shape = client.meta.service_model.operation_model(operation).input_shape
    return {k: v for k, v in arguments.items() if shape is not None and k in shape.members}


def copy_arguments(client: S3Client, extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of CopyObject for a copy as if it had been stored with these, with none of the original's."""
    return {
        **supported_args(client, "CopyObject", extra_args),
        "MetadataDirective": "REPLACE",
        "TaggingDirective": "REPLACE",
    }


def sends_checksums(client: S3Client) -> bool:
    """True if CRC checksums go with what is stored, as is botocore's default since 1.36."""
    return getattr(client.meta.config, "request_checksum_calculation", None) != "when_required"


def content_md5(client: S3Client, body: bytes | bytearray) -> dict[str, Any]:
    """The argument ``ContentMD5``, where the connection asks not to send the checksums that are newer.

    Buckets with Object Lock demand one or the other.
    """
    return {} if sends_checksums(client) else {"ContentMD5": md5_of(body)}


def md5_of(data: bytes | bytearray) -> str:
    """The MD5 sum as S3 writes it, in Base64."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def get_object(client: S3Client, **arguments: Any) -> GetObjectOutputTypeDef:
    """Begin to read an object.

    botocore reads the body of a refusal where it does not translate urllib3's errors (`convert_to_response_dict`).

    :raises ClientError: S3 has refused.
    :raises BotoCoreError: anything else.
    """
    try:
        return client.get_object(**arguments)
    except urllib3.exceptions.HTTPError as error:
        raise ResponseStreamingError(error=error) from error


def parse_uri(uri: str, *, parameter: str) -> tuple[str, str]:
    """Split ``s3://bucket/key``, where the ARN of an access point may be the bucket.

    :param parameter: name of the operator's argument, for the message.
    :raises InputError: it isn't one.
    """
    match = _URI.fullmatch(uri) if isinstance(uri, str) else None
    if match is None:
        raise InputError(f"{parameter} must look like {_FORMS.get(parameter, _FORM)}, not {uri!r}")
    return match.group(1), match.group(2) or ""


def is_access_point(bucket: str) -> bool:
    """True if this is an access point, which lets through what concerns objects, and little of the bucket."""
    return bucket.startswith("arn:") or bucket.endswith("-s3alias")


def put_if_absent(client: S3Client, bucket: str, key: str, body: bytes, extra_args: Mapping[str, Any]) -> None:
    """Store a small JSON object that must not exist yet.

    :param extra_args: arguments for the request, if it accepts them.
    :raises DataConflict: it does, and holds something else.
    :raises StorageError: S3 refused; the object does not exist.
    :raises OutcomeUnknown: S3 failed, and may still come to store it.
    """
    uri = f"s3://{bucket}/{key}"
    arguments = _record_arguments(client, bucket, key, body, extra_args)
    try:
        try:
            client.put_object(**arguments, IfNoneMatch="*")
        except ClientError as error:
            # Some stores know no conditional writes. Keys hold random bits, and were looked for before.
            if status_of(error) != HTTPStatus.NOT_IMPLEMENTED:
                raise
            client.put_object(**arguments)
    except (ClientError, BotoCoreError) as error:
        # The answer to a first attempt may have been lost on its way: then it is our own that is there.
        is_ours = _holds(client, bucket, key, body)
        if is_ours:
            return
        if status_of(error) == 412 and (is_ours is False or is_refused(error)):
            raise DataConflict(f"{uri} exists already, and is not ours") from error
        if is_refused(error):
            raise StorageError(f"cannot write {uri}: {error}{_advice(client, error)}") from error
        raise OutcomeUnknown(f"cannot write {uri}: {error}") from error


def put_record(client: S3Client, bucket: str, key: str, body: bytes, extra_args: Mapping[str, Any]) -> None:
    """Store a small JSON object, whether or not it exists.

    :param extra_args: arguments for the request, if it accepts them.
    :raises StorageError: S3 refused; nothing was stored.
    :raises OutcomeUnknown: S3 failed, and may still come to store it.
    """
    try:
        client.put_object(**_record_arguments(client, bucket, key, body, extra_args))
    except (ClientError, BotoCoreError) as error:
        kind = StorageError if is_refused(error) else OutcomeUnknown
        raise kind(f"cannot write s3://{bucket}/{key}: {error}") from error


def _record_arguments(
    client: S3Client, bucket: str, key: str, body: bytes, extra_args: Mapping[str, Any]
) -> dict[str, Any]:
    return of_records(client, extra_args) | {
        "Bucket": bucket,
        "Key": key,
        "Body": body,
        "ContentType": "application/json",
        **content_md5(client, body),
    }


def of_records(client: S3Client, extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """The extra arguments for what is small and read again and again: not the class, which may be an archive."""
    return {
        name: v for name, v in supported_args(client, "PutObject", extra_args).items() if name != "StorageClass"
    }


def _holds(client: S3Client, bucket: str, key: str, body: bytes) -> bool | None:
    """True if this is what S3 holds; None if that can't be read."""
    with contextlib.suppress(ClientError, BotoCoreError):
        return get_object(client, Bucket=bucket, Key=key)["Body"].read() == body
    return None


def _advice(client: S3Client, error: Exception) -> str:
    """What may help; this is the first request of a backup that carries a checksum."""
    if status_of(error) in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_IMPLEMENTED) and sends_checksums(client):
        return (
            '. If this store does not know CRC checksums, put into the AWS connection\'s extra: {"config_kwargs": '
            '{"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}}'
        )
    return ""


def answered_at(answer: Any) -> datetime:
    """The end of the second in which S3 answered, by its own clock; ours if it does not say."""
    try:
        said = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)
    return said.replace(tzinfo=said.tzinfo or UTC) + timedelta(seconds=1)


def list_pages(client: S3Client, **arguments: Any) -> Iterator[Any]:
    """Yield the pages of a listing, as ListObjectsV2 answers them.

    :raises StorageError: the store says that there is more, but not how to go on.
    """
    page: Any = {}
    for page in client.get_paginator("list_objects_v2").paginate(**arguments):
        yield page
    if page.get("IsTruncated"):
        raise StorageError(
            f"the list of s3://{arguments['Bucket']}/{arguments['Prefix']} ends too early: the store says that "
            "there is more, but not how to go on (NextContinuationToken), so it does not know ListObjectsV2"
        )
