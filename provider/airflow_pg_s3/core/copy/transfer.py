"""Brings objects to another bucket: S3 copies them, or they go through this machine, and are checked."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import IntegrityError, StorageError
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.chunk_reader import open_chunk
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.manifest import parse_run_key
from airflow_pg_s3.core.repository.run_trailer import LONGEST_TRAILER_BYTES, read_trailer
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_AMAZON = ".amazonaws.com"


class Transfer:
    """Brings objects of one backup to another bucket. Thread-safe.

    :param source: client for the bucket and key prefix that they are copied from.
    :param target: the same for where they are copied to.
    :param is_encrypted: then nobody can look into them on the way.
    :param extra_args: arguments for the requests to the target, those that they accept.
    """

    def __init__(
        self,
        source: tuple[S3Client, str, str],
        target: tuple[S3Client, str, str],
        *,
        is_encrypted: bool,
        extra_args: Mapping[str, Any],
        log: Log,
    ) -> None:
        self._source, self._source_bucket, self._source_base = source
        self._target, self._target_bucket, self._target_base = target
        self._decoder = None if is_encrypted else Decoder(None)
        self._extra_args = extra_args
        self._log = log
        self._lock = threading.Lock()
        self._s3_copies = _is_one_service(self._source, self._target) and not any(
            name.startswith("SSECustomer") for name in extra_args
        )
        self.objects = 0
        self.bytes = 0
        """Of the objects brought so far."""

    def bring(self, key: str, size: int, *, is_record: bool = False) -> None:
        """Bring one object.

        :param key: relative to the manifest's folder.
        :param is_record: it is small and read again and again: not for a storage class that is an archive.
        :raises IntegrityError: the source does not hold what was stored there.
        :raises StorageError: S3 failed.
        """
        arguments = s3_requests.of_records(self._target, self._extra_args) if is_record else self._extra_args
        if not (self._s3_copies and self._let_s3_copy(key, arguments)):
            self._store(key, self._read(key, size), arguments)
        with self._lock:
            self.objects += 1
            self.bytes += size

    def _let_s3_copy(self, key: str, arguments: Mapping[str, Any]) -> bool:
        client: Any = self._target
        try:
            client.copy_object(
                CopySource={"Bucket": self._source_bucket, "Key": self._source_base + key},
                Bucket=self._target_bucket,
                Key=self._target_base + key,
                **s3_requests.copy_arguments(client, arguments),
            )
        except (ClientError, BotoCoreError) as error:
            with self._lock:
                is_first, self._s3_copies = self._s3_copies, False
            if is_first:
                self._log.info("S3 does not copy by itself, so all goes through this machine: %s", error)
            return False
        return True

    def _read(self, key: str, size: int) -> bytes:
        whole = self._source_base + key
        try:
            data = s3_requests.get_object(self._source, Bucket=self._source_bucket, Key=whole)["Body"].read()
        except ClientError as error:
            if s3_errors.status_of(error) == 404:
                raise IntegrityError(f"{whole} is missing: has the backup been deleted meanwhile?") from error
            raise s3_errors.explain_unreadable(error, self._source_bucket, whole) from error
        except (BotoCoreError, OSError) as error:
            raise StorageError(f"s3://{self._source_bucket}/{whole} cannot be read: {error}") from error
        if len(data) != size:
            raise IntegrityError(f"{whole} has {len(data)} bytes, but {size} were listed")
        if self._decoder is not None and parse_run_key(key) is not None:
            for chunk in read_trailer(key, size, data[-LONGEST_TRAILER_BYTES:]):
                open_chunk(chunk, data[chunk.offset : chunk.offset + chunk.stored_bytes], self._decoder)
        return data

    def _store(self, key: str, data: bytes, arguments: Mapping[str, Any]) -> None:
        client: Any = self._target
        with s3_errors.translate_errors(self._target_bucket):
            client.put_object(
                Bucket=self._target_bucket,
                Key=self._target_base + key,
                Body=data,
                **s3_requests.supported_args(client, "PutObject", arguments),
                **s3_requests.content_md5(client, data),
            )


def _is_one_service(one: S3Client, other: S3Client) -> bool:
    """True if a bucket's name means the same to both, so that one of them may be asked to copy from the other."""
    hosts = [urlsplit(client.meta.endpoint_url).netloc for client in (one, other)]
    return hosts[0] == hosts[1] or all(host.endswith(_AMAZON) for host in hosts)
