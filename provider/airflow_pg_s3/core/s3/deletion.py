"""Deletes objects: many in one request, or one by one where a store does not take many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3.requests import md5_of, sends_checksums

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_KEYS_A_REQUEST = 1000  # S3 takes no more
# What stores answer that do not know DeleteObjects, or want a checksum of it that is not sent.
_NOT_KNOWN = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.LENGTH_REQUIRED,
    HTTPStatus.NOT_IMPLEMENTED,
)
# What says that the request came otherwise than it was sent: then the list of what is to be deleted may have, too.
_DAMAGED = ("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch")


class Deleter:
    """Deletes objects of one bucket."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._at_once = _KEYS_A_REQUEST
        self.leaves_versions = False
        """True if the bucket has kept what was deleted, as a noncurrent version."""
        if not sends_checksums(client):
            # botocore would send a CRC even then, as a checksum is required here; those who switch them off have
            # stores that know MD5 alone.
            client.meta.events.register("before-call.s3.DeleteObjects", _send_md5, unique_id="pg-s3-md5")

    def delete(
        self, keys: Sequence[str], before_each: Callable[[], None] = lambda: None
    ) -> Iterator[list[Mapping[str, Any]]]:
        """Delete; yield what each request was refused: ``Key``, ``Code`` and ``Message``.

        :param before_each: called before each request.
        :raises botocore.exceptions.ClientError: S3 refuses all of a request, or failed.
        :raises botocore.exceptions.BotoCoreError: S3 cannot be reached.
        """
        done = 0
        while done < len(keys):
            before_each()
            # Several threads may use it, and another one may just have found out.
            at_once = self._at_once
            batch = keys[done : done + at_once]
            try:
                refusals = self._delete_one(batch[0]) if at_once == 1 else self._delete_many(batch)
            except ClientError as error:
                is_damaged = error.response["Error"].get("Code") in _DAMAGED
                if at_once == 1 or is_damaged or s3_errors.status_of(error) not in _NOT_KNOWN:
                    raise
                self._at_once = 1
                continue
            yield [refused for refused in refusals if refused.get("Code") != "NoSuchKey"]
            done += len(batch)

    def _delete_many(self, keys: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        answer = self._client.delete_objects(
            Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys]}
        )
        if any(deleted.get("DeleteMarker") for deleted in answer.get("Deleted", [])):
            self.leaves_versions = True
        return [{"Key": keys[0], **refused} for refused in answer.get("Errors", [])]

    def _delete_one(self, key: str) -> Sequence[Mapping[str, Any]]:
        try:
            answer = self._client.delete_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if s3_errors.status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            return [{"Key": key, **error.response["Error"]}]
        if answer.get("DeleteMarker"):
            self.leaves_versions = True
        return []


def _send_md5(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    params["headers"]["Content-MD5"] = md5_of(params["body"])
    context.get("checksum", {}).pop("request_algorithm", None)
