"""Streams of unknown length to S3: equal parts, volumes, nothing left behind.

S3's rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html. Parts of one size satisfy R2, and
256 parts an object the stores that allow 1,000; a longer stream goes on in the next volume, so there is no
ceiling, and no size has to be guessed.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import Cancelled, StorageError
from airflow_pg_s3.core.s3.requests import StoredObject, content_md5, supported_args

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


PART_BYTES = 16 << 20
PARTS_PER_VOLUME = 256
PARTS_IN_FLIGHT = 4
_POLL_SECONDS = 0.5


class Uploader:
    """Uploads the objects of one backup with a bounded number of parts in flight, whatever their number.

    On leaving the context, every upload that was not completed is aborted.

    :param client: boto3 S3 client; used from several threads.
    :param extra_args: arguments for the requests that accept them, such as ``ServerSideEncryption``.
    :param part_bytes: size of all parts but a stream's last; at least 5 MiB on most stores.
    :param parts_per_volume: parts after which a stream goes on in its next volume.
    :param cancel: when set, uploads in progress raise `Cancelled`.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        cancel: threading.Event,
        extra_args: Mapping[str, Any] | None = None,
        part_bytes: int = PART_BYTES,
        parts_per_volume: int = PARTS_PER_VOLUME,
        parts_in_flight: int = PARTS_IN_FLIGHT,
    ) -> None:
        self.bucket = bucket
        self.part_bytes = part_bytes
        self.parts_per_volume = parts_per_volume
        self.cancel = cancel
        self._client = client
        self._extra_args = dict(extra_args or {})
        self._pool = ThreadPoolExecutor(parts_in_flight, thread_name_prefix="upload")
        # Bounds the parts in memory over all streams, not only those being sent.
        self._slots = threading.BoundedSemaphore(parts_in_flight)
        self._open_uploads: dict[str, str] = {}
        self._lock = threading.Lock()
        self.stored_bytes = 0

    def __enter__(self) -> Uploader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.cancel.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for upload_id, key in list(self._open_uploads.items()):
            # Best effort: who stages the backup looks for uploads that are left, and reports them.
            with contextlib.suppress(ClientError, BotoCoreError):
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)

    def open(self, key: str) -> ObjectStream:
        """Begin a stream that is stored under `key` and, if it is long, ``key.001`` and so on."""
        return ObjectStream(self, key)

    def arguments(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Add those of the extra arguments that an S3 operation accepts."""
        return supported_args(self._client, operation, self._extra_args) | arguments

    def put_object(self, key: str, body: bytearray) -> None:
        """Store a small object in one request."""
        with _explained("PutObject", key):
            self._client.put_object(
                **self.arguments("PutObject", Bucket=self.bucket, Key=key, Body=PartBody(body, self.cancel)),
                **content_md5(self._client, body),
            )
        self._count(len(body))

    def create_multipart_upload(self, key: str) -> str:
        """Begin a multipart upload, which this uploader aborts unless it is completed."""
        with _explained("CreateMultipartUpload", key):
            upload_id = self._client.create_multipart_upload(
                **self.arguments("CreateMultipartUpload", Bucket=self.bucket, Key=key)
            )["UploadId"]
        with self._lock:
            self._open_uploads[upload_id] = key
        return upload_id

    def submit_part(self, key: str, upload_id: str, number: int, body: bytearray) -> Future[dict[str, Any]]:
        """Send a part in the background, once there is room for one more."""
        while not self._slots.acquire(timeout=_POLL_SECONDS):
            if self.cancel.is_set():
                raise Cancelled(f"stopped while uploading {key}")
        try:
            future = self._pool.submit(self._send_part, key, upload_id, number, body)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return future

    def complete(self, key: str, upload_id: str, parts: list[dict[str, Any]], size: int) -> None:
        """Make the object exist.

        :param size: of all parts.
        """
        arguments = self.arguments(
            "CompleteMultipartUpload",
            Bucket=self.bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
        )
        with _explained("CompleteMultipartUpload", key):
            try:
                self._client.complete_multipart_upload(**arguments)
            except self._client.exceptions.NoSuchUpload:
                # If the answer to a first attempt was lost, then the upload is gone because its object is there.
                if self._size_of(key) != size:
                    raise
        with self._lock:
            del self._open_uploads[upload_id]

    def _size_of(self, key: str) -> int | None:
        # Not by HeadObject: a backup need not have the right to read.
        listed = self._client.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1).get("Contents", [])
        return next((entry["Size"] for entry in listed if entry["Key"] == key), None)

    def _send_part(self, key: str, upload_id: str, number: int, body: bytearray) -> dict[str, Any]:
        with _explained(f"UploadPart {number}", key):
            answer = self._client.upload_part(
                **self.arguments(
                    "UploadPart",
                    Bucket=self.bucket,
                    Key=key,
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=PartBody(body, self.cancel),
                ),
                **content_md5(self._client, body),
            )
        self._count(len(body))
        checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
        checksums.pop("ChecksumType", None)
        return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

    def _count(self, size: int) -> None:
        with self._lock:
            self.stored_bytes += size


@dataclass
class ObjectStream:
    """One stream of bytes on its way to S3. One thread writes it; `close` makes it exist.

    Nothing is visible under the stream's last key before `close`; what is not closed is aborted by the uploader.
    """

    _uploader: Uploader
    _key: str
    objects: list[StoredObject] = field(default_factory=list)
    _buffer: bytearray = field(default_factory=bytearray)
    _upload_id: str | None = None
    _parts: list[Future[dict[str, Any]]] = field(default_factory=list)
    _volume_bytes: int = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes written so far, over all volumes."""
        return sum(o.stored_bytes for o in self.objects) + self._volume_bytes + len(self._buffer)

    def write(self, data: bytes) -> None:
        """Take the next bytes; waits while enough parts are in flight.

        :raises StorageError: a part failed.
        :raises Cancelled: told to stop.
        """
        rest = memoryview(data)
        while rest:
            if len(self._buffer) == self._uploader.part_bytes:
                self._send_buffer()
            room = self._uploader.part_bytes - len(self._buffer)
            self._buffer += rest[:room]
            rest = rest[room:]

    def close(self) -> list[StoredObject]:
        """Finish the stream.

        :returns: its objects in order; one, or several volumes.
        :raises StorageError: a part failed; nothing exists under the last key.
        """
        if len(self._parts) == self._uploader.parts_per_volume:
            self._complete_volume()
        if self._upload_id is None:
            self._uploader.put_object(self._volume_key(), self._buffer)
            self._volume_bytes = len(self._buffer)
            self._buffer = bytearray()
            self._end_volume()
        else:
            self._send_buffer()
            self._complete_volume()
        return self.objects

    def _send_buffer(self) -> None:
        if len(self._parts) == self._uploader.parts_per_volume:
            self._complete_volume()
        if self._upload_id is None:
            self._upload_id = self._uploader.create_multipart_upload(self._volume_key())
        self._raise_if_failed()
        self._parts.append(
            self._uploader.submit_part(self._volume_key(), self._upload_id, len(self._parts) + 1, self._buffer)
        )
        self._volume_bytes += len(self._buffer)
        self._buffer = bytearray()

    def _complete_volume(self) -> None:
        while wait(self._parts, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION).not_done:
            self._raise_if_failed()
            if self._uploader.cancel.is_set():
                raise Cancelled(f"stopped while uploading {self._key}")
        parts = [future.result() for future in self._parts]
        self._uploader.complete(self._volume_key(), str(self._upload_id), parts, self._volume_bytes)
        self._end_volume()

    def _raise_if_failed(self) -> None:
        for future in self._parts:
            if future.done():
                future.result()

    def _end_volume(self) -> None:
        self.objects.append(StoredObject(key=self._volume_key(), stored_bytes=self._volume_bytes))
        self._upload_id = None
        self._parts = []
        self._volume_bytes = 0

    def _volume_key(self) -> str:
        number = len(self.objects)
        return f"{self._key}.{number:03d}" if number else self._key


class _Stop(BaseException):
    """Ends a request. The client takes any Exception for a broken connection, and sends the part again."""


class PartBody(io.RawIOBase):
    """A buffer as a request's body, which stops being sent when `cancel` is set.

    Handing the client plain bytes would mean waiting for the whole part when a task is killed.
    """

    def __init__(self, data: bytearray, cancel: threading.Event) -> None:
        self._view = memoryview(data)
        self._cancel = cancel
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def tell(self) -> int:  # noqa: D102
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> Any:  # noqa: D102
        if self._cancel.is_set():
            raise _Stop
        end = len(self._view) if size is None or size < 0 else self._position + size
        piece = self._view[self._position : end]
        self._position += len(piece)
        return piece


@contextlib.contextmanager
def _explained(operation: str, key: str) -> Iterator[None]:
    try:
        yield
    except _Stop:
        raise Cancelled(f"stopped while uploading {key}") from None
    except (ClientError, BotoCoreError) as error:
        raise StorageError(f"S3 {operation} of {key} failed: {error}") from error
