"""Objects from S3 as streams that survive broken connections.

Ranges are fetched ahead by a few threads and handed on in order. A range that breaks off is asked for again from
where it stopped, and only while the object is still the same one (``If-Match`` on its ETag).
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import Cancelled, IntegrityError, StorageError
from airflow_pg_s3.core.s3.errors import Unreadable, explain_unreadable
from airflow_pg_s3.core.s3.requests import StoredObject, get_object

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


RANGE_BYTES = 4 << 20
RANGES_AHEAD = 2
_MOST_REQUESTS_AHEAD = 16
ATTEMPTS = 6
_BODY_READ_BYTES = 256 << 10
_POLL_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 0.2


_Item = TypeVar("_Item")


class StoredRange(NamedTuple):
    """Some bytes of an object.

    :param key: its full key in the bucket.
    :param start: of the first byte.
    :param end: behind the last byte.
    :param object_bytes: how long the object must be; None if that is not known.
    """

    key: str
    start: int
    end: int
    object_bytes: int | None = None

    @property
    def size(self) -> int:
        """How many bytes they are."""
        return self.end - self.start


class Downloader:
    """Reads objects of one bucket.

    :param client: boto3 S3 client; used from several threads.
    :param cancel: when set, reads in progress raise `Cancelled`.
    :param threads: ranges fetched at the same time, over all streams.
    :param range_bytes: size of one range of a stream, which holds at most `RANGES_AHEAD` + 1 of them in memory.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        cancel: threading.Event,
        threads: int = 4,
        range_bytes: int = RANGE_BYTES,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self.cancel = cancel
        self._range_bytes = range_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="download")
        self._lock = threading.Lock()
        self.read_bytes = 0

    def __enter__(self) -> Downloader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.cancel.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def stream(self, objects: Sequence[StoredObject]) -> Iterator[bytes]:
        """Yield the bytes of objects, one after the other, in order.

        :raises Unreadable: S3 does not give an object out.
        :raises StorageError: S3 refused, or kept failing.
        :raises IntegrityError: an object is missing, is not as long as it was, or changed while being read.
        """
        ranges = (
            StoredRange(
                stored.key, start, min(start + self._range_bytes, stored.stored_bytes), stored.stored_bytes
            )
            for stored in objects
            for start in range(0, stored.stored_bytes, self._range_bytes)
        )
        for _, pieces in self._fetch_ahead((one, None) for one in ranges):
            yield from pieces

    def ranges(self, wanted: Iterable[tuple[StoredRange, _Item]]) -> Iterator[tuple[_Item, bytes]]:
        """Yield ranges of objects, in order, each whole and with what came with it.

        :param wanted: taken as far ahead as ranges are fetched.
        :raises Unreadable: S3 does not give an object out.
        :raises StorageError: S3 refused, or kept failing.
        :raises IntegrityError: an object is missing, ends before the range does, or changed while being read.
        """
        for item, pieces in self._fetch_ahead(wanted):
            yield item, b"".join(pieces)

    def read(self, stored: StoredObject) -> bytes:
        """Return one small object whole."""
        return b"".join(self.stream([stored]))

    def _fetch_ahead(self, wanted: Iterable[tuple[StoredRange, _Item]]) -> Iterator[tuple[_Item, list[bytes]]]:
        ahead: collections.deque[tuple[_Item, int, Future[list[bytes]]]] = collections.deque()
        bytes_ahead = 0
        etags: dict[str, str] = {}
        try:
            for wanted_range, item in wanted:
                ahead.append((item, wanted_range.size, self._pool.submit(self._fetch, wanted_range, etags)))
                bytes_ahead += wanted_range.size
                while bytes_ahead > RANGES_AHEAD * self._range_bytes or len(ahead) > _MOST_REQUESTS_AHEAD:
                    first, size, future = ahead.popleft()
                    bytes_ahead -= size
                    yield first, self._result(future)
            while ahead:
                first, _, future = ahead.popleft()
                yield first, self._result(future)
        finally:
            for _, _, future in ahead:
                future.cancel()

    def _result(self, future: Future[list[bytes]]) -> list[bytes]:
        while True:
            try:
                return future.result(timeout=_POLL_SECONDS)
            except FutureTimeoutError:
                if self.cancel.is_set():
                    raise Cancelled("stopped while downloading") from None
            except CancelledError:
                raise Cancelled("stopped while downloading") from None

    def _fetch(self, wanted: StoredRange, etags: dict[str, str]) -> list[bytes]:
        # Handed on in the pieces in which they come: one of the range's size would be a copy of all.
        received: list[bytes] = []
        at = wanted.start
        attempt = 0
        while at < wanted.end:
            before = at
            problem: Exception | str = "the answer was too short"
            try:
                self._fetch_once(wanted, at, etags, received)
            except (ClientError, BotoCoreError, OSError) as error:
                _raise_if_final(error, self._bucket, wanted)
                problem = error
            at = wanted.start + sum(map(len, received))
            # Progress earns new patience: only a range that is stuck fails.
            attempt = 0 if at > before else attempt + 1
            if attempt >= ATTEMPTS:
                raise StorageError(f"reading {wanted.key} failed at byte {at}: {problem}")
            if at < wanted.end:
                self._pause(attempt)
        return received

    def _fetch_once(self, wanted: StoredRange, start: int, etags: dict[str, str], received: list[bytes]) -> None:
        key, end = wanted.key, wanted.end
        condition: Any = {"IfMatch": etags[key]} if key in etags else {}
        answer = get_object(
            self._client, Bucket=self._bucket, Key=key, Range=f"bytes={start}-{end - 1}", **condition
        )
        # Not "with body": that gives the stream below botocore's own, which does not notice when it ends early.
        body = answer["Body"]
        with contextlib.closing(body):
            length = answer["ContentLength"]
            given, _, total = answer.get("ContentRange", f"bytes 0-{length - 1}/{length}").rpartition("/")
            if wanted.object_bytes is not None and total != str(wanted.object_bytes):
                raise IntegrityError(f"{key} has {total} bytes, but {wanted.object_bytes} were stored")
            if total.isdigit() and int(total) < end:
                raise IntegrityError(f"{key} has {total} bytes, but at least {end} were stored")
            if given != f"bytes {start}-{end - 1}":
                raise StorageError(f"S3 sent {given} of {key}, but was asked for {start}-{end - 1}")
            # The first ranges are asked for together, when there is no ETag to match yet.
            if etags.setdefault(key, answer["ETag"]) != answer["ETag"]:
                raise IntegrityError(f"{key} changed while it was being read")
            while chunk := body.read(_BODY_READ_BYTES):
                if self.cancel.is_set():
                    raise Cancelled("stopped while downloading")
                received.append(chunk)
                with self._lock:
                    self.read_bytes += len(chunk)

    def _pause(self, attempt: int) -> None:
        # Each failure doubles the pause: an immediate retry would meet the same throttle.
        if self.cancel.wait(_FIRST_PAUSE_SECONDS * 2**attempt):
            raise Cancelled("stopped while downloading")


def _raise_if_final(error: Exception, bucket: str, wanted: StoredRange) -> None:
    if not isinstance(error, ClientError):
        return
    code = error.response["Error"]["Code"]
    if code in ("NoSuchKey", "404"):
        raise IntegrityError(f"{wanted.key} is missing") from error
    if code in ("PreconditionFailed", "412"):
        raise IntegrityError(f"{wanted.key} changed while it was being read") from error
    if code in ("InvalidRange", "416"):
        raise IntegrityError(
            f"{wanted.key} is shorter than the {wanted.object_bytes or wanted.end} bytes stored"
        ) from error
    refusal = explain_unreadable(error, bucket, wanted.key)
    if isinstance(refusal, Unreadable):
        raise refusal from error
    if error.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 401, 403, 405):
        raise StorageError(f"S3 refused to read {wanted.key}: {error}") from error
