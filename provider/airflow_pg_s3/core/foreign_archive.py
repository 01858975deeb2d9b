"""An object on S3 that another tool has made: found, recognised, and unwrapped as it streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import InputError, IntegrityError, StorageError
from airflow_pg_s3.core.formats import LOOK_BYTES, NotAnArchive, compression_of, format_of
from airflow_pg_s3.core.s3 import explain_unreadable, parse_uri
from airflow_pg_s3.core.unwrap import unwrap
from airflow_pg_s3.core.upload import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class ForeignArchive:
    """An object on S3 that is an archive of pg_dump.

    :param chunks: its bytes.
    :raises NotAnArchive: it is something else.
    """

    def __init__(self, uri: str, stored: StoredObject, chunks: Iterator[bytes]) -> None:
        self.uri = uri
        self.stored_bytes = stored.stored_bytes
        with self.about_it():
            first = next(chunks, b"")
            self.compression = compression_of(first)
            unwrapped = unwrap(chain([first], chunks), self.compression)
            pieces: list[bytes] = []
            while sum(map(len, pieces)) < LOOK_BYTES and (piece := next(unwrapped, None)) is not None:
                pieces.append(piece)
            self.beginning = b"".join(pieces)
            self.format = format_of(self.beginning[:LOOK_BYTES])
        self.chunks = chain([self.beginning], unwrapped)

    @contextmanager
    def about_it(self) -> Iterator[None]:
        """Name the object in errors about it."""
        try:
            yield
        except (NotAnArchive, IntegrityError) as error:
            raise type(error)(f"{self.uri}: {error}") from error


def find_object(client: S3Client, uri: str) -> StoredObject:
    """Ask S3 for an object's size.

    :raises InputError: there is no such object.
    :raises StorageError: S3 failed.
    """
    bucket, key = parse_uri(uri, parameter="backup")
    if not key or key.endswith("/"):
        raise InputError(f"backup must name a manifest or an archive, not the folder {uri!r}")
    try:
        # Not HeadObject, whose refusals say nothing.
        answer = client.get_object(Bucket=bucket, Key=key)
        answer["Body"].close()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            raise InputError(f"there is no object {uri}: list the archives to see which there are") from error
        raise explain_unreadable(error, bucket, key) from error
    except BotoCoreError as error:
        raise StorageError(f"{uri} cannot be read: {error}") from error
    return StoredObject(key=key, stored_bytes=answer["ContentLength"])
