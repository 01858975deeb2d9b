"""Objects to S3, a few at the same time: each in one request, with a checksum."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import Cancelled, StorageError
from airflow_pg_s3.core.s3.requests import content_md5, supported_args

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


IN_FLIGHT = 4
_POLL_SECONDS = 0.5


class Uploader:
    """Stores the objects of one backup, with a bounded number of them in memory.

    :param client: boto3 S3 client; used from several threads.
    :param extra_args: arguments for the requests that accept them, such as ``ServerSideEncryption``.
    :param cancel: when set, requests in progress raise `Cancelled`.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        cancel: threading.Event,
        extra_args: Mapping[str, Any] | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self.cancel = cancel
        self._client = client
        self._bucket = bucket
        self._extra_args = supported_args(client, "PutObject", extra_args or {})
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="upload")
        # Bounds the objects in memory, not only those being sent.
        self._slots = threading.BoundedSemaphore(in_flight)
        self._pending = 0
        self._failure: BaseException | None = None
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

    def store(self, key: str, body: bytes | bytearray) -> None:
        """Store an object in the background, once there is room for one more. The body must not change.

        :raises StorageError: an earlier one failed.
        :raises Cancelled: told to stop.
        """
        while not self._slots.acquire(timeout=_POLL_SECONDS):
            self._raise_if_stopped(key)
        try:
            self._raise_if_stopped(key)
            future = self._pool.submit(self._put, key, body)
        except BaseException:
            self._slots.release()
            raise
        with self._lock:
            self._pending += 1
        future.add_done_callback(self._note)

    @property
    def is_busy(self) -> bool:
        """True if objects are still being stored."""
        return self._pending > 0

    def raise_if_failed(self) -> None:
        """Raise what kept the first object that failed from being stored.

        :raises StorageError: S3 refused, or kept failing.
        :raises Cancelled: told to stop.
        """
        if self._failure is not None:
            raise self._failure

    def _raise_if_stopped(self, key: str) -> None:
        self.raise_if_failed()
        if self.cancel.is_set():
            raise _stopped(key)

    def _note(self, future: Future[None]) -> None:
        error = _stopped("the rest") if future.cancelled() else future.exception()
        with self._lock:
            self._failure = self._failure or error
            self._pending -= 1
        self._slots.release()

    def _put(self, key: str, body: bytes | bytearray) -> None:
        with _explained(key):
            arguments: Any = {
                **self._extra_args,
                "Bucket": self._bucket,
                "Key": key,
                "Body": RequestBody(body, self.cancel),
                **content_md5(self._client, body),
            }
            self._client.put_object(**arguments)
        with self._lock:
            self.stored_bytes += len(body)


class _Stop(BaseException):
    """Ends a request. The client takes any Exception for a broken connection, and sends the body again."""


class RequestBody(io.RawIOBase):
    """A buffer as a request's body, which stops being sent when `cancel` is set.

    Handing the client plain bytes would mean waiting for the whole object when a task is killed.
    """

    def __init__(self, data: bytes | bytearray, cancel: threading.Event) -> None:
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
def _explained(key: str) -> Iterator[None]:
    try:
        yield
    except _Stop:
        raise _stopped(key) from None
    except (ClientError, BotoCoreError) as error:
        raise StorageError(f"S3 PutObject of {key} failed: {error}") from error


def _stopped(key: str) -> Cancelled:
    return Cancelled(f"stopped while uploading {key}")
