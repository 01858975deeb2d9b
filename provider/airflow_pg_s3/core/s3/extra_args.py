"""Extra arguments of requests to S3: of what is stored, and of every request where access takes them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.s3.requests import md5_of, supported_args

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


# What was stored with these can be read with them alone; the others say who pays, and whose bucket it must be.
_OF_ACCESS = ("SSECustomerAlgorithm", "SSECustomerKey", "SSECustomerKeyMD5", "RequestPayer", "ExpectedBucketOwner")
_KEY_BYTES = 32


def checked(client: S3Client, extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """Take the arguments as users give them; a key of SSE-C becomes the Base64 text that S3 expects, with its MD5.

    :raises InputError: S3 knows no such argument, or SSE-C is asked for by half.
    """
    known = supported_args(client, "PutObject", extra_args)
    for name in extra_args:
        if name not in known:
            raise InputError(f"s3_extra_args: no S3 request that stores something has an argument {name!r}")
    arguments = dict(extra_args)
    if arguments.keys() & {"SSECustomerAlgorithm", "SSECustomerKey", "SSECustomerKeyMD5"}:
        if not (arguments.get("SSECustomerAlgorithm") and arguments.get("SSECustomerKey")):
            raise InputError("s3_extra_args: SSE-C takes both SSECustomerAlgorithm and SSECustomerKey")
        key = _customer_key(arguments["SSECustomerKey"])
        arguments["SSECustomerKey"] = base64.b64encode(key).decode()
        # botocore would add it, but not in every request that takes it.
        arguments["SSECustomerKeyMD5"] = md5_of(key)
    return arguments


def _customer_key(given: Any) -> bytes:
    key = given.encode() if isinstance(given, str) else given
    if isinstance(key, bytes) and len(key) != _KEY_BYTES:
        try:
            key = base64.b64decode(key, validate=True)
        except binascii.Error:
            key = b""
    if not isinstance(key, bytes) or len(key) != _KEY_BYTES:
        raise InputError(f"s3_extra_args: SSECustomerKey must be {_KEY_BYTES} bytes, or these in Base64")
    return key


def apply_to_all(client: S3Client, extra_args: Mapping[str, Any]) -> None:
    """Let every request of the client carry those arguments that access takes, as far as it accepts them.

    :param extra_args: as `checked` has them.
    """
    of_access = {name: value for name, value in extra_args.items() if name in _OF_ACCESS}

    def add(params: dict[str, Any], model: Any, **_: Any) -> None:
        for name, value in supported_args(client, model.name, of_access).items():
            params.setdefault(name, value)

    client.meta.events.register("provide-client-params.s3", add)
