"""An S3 store in memory for several programs at once, which goes on request by request as it is told.

Each program is a greenlet. A request of its client hands over to the simulation, which chooses whose request takes
place next, whose program is killed, and how much time passes before.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any, ClassVar

import boto3
import greenlet
from botocore.exceptions import ClientError

SKEW = timedelta(minutes=15)
"""S3 refuses what was signed longer ago."""


@functools.cache
def _real_client() -> Any:
    return boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


class Killed(BaseException):
    """The program is no more: nothing that it does on its way out reaches S3."""


@functools.cache
def _date(now: datetime) -> str:
    return format_datetime(now, usegmt=True)


@dataclass(frozen=True)
class Stored:
    body: bytes
    modified: datetime


class Store:
    """What one bucket holds, and S3's clock.

    :param changed: called with each key that was stored or deleted.
    """

    def __init__(self, now: datetime, changed: Callable[[str], None] = lambda key: None) -> None:
        self.now = now
        self.objects: dict[str, Stored] = {}
        self.unlisted: set[str] = set()
        """Keys that lists do not show yet."""
        self._changed = changed

    def put(self, key: str, body: bytes) -> None:
        self.objects[key] = Stored(body, self.now)
        self._changed(key)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)
        self.unlisted.discard(key)
        self._changed(key)


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    :param answer: lets it take place.
    """

    operation: str
    key: str
    signed: datetime
    answer: Callable[[], Any]


class Client:
    """Answers what our code asks a boto3 client for.

    :param gate: lets a request take place; returns its answer or raises its error.
    """

    exceptions: ClassVar = None

    def __init__(self, store: Store, gate: Callable[[Request], Any] = lambda request: request.answer()) -> None:
        self._store = store
        self._gate = gate
        self.meta = _real_client().meta
        self.exceptions = _real_client().exceptions

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, IfNoneMatch: str | None = None, **_: Any) -> Any:
        def answer() -> Any:
            if IfNoneMatch and Key in self._store.objects:
                raise _error(412, "PreconditionFailed", "PutObject")
            self._store.put(Key, bytes(Body))
            return self._answer()

        return self._request("PutObject", Key, answer)

    def copy_object(self, *, Bucket: str, Key: str, CopySource: Any, **_: Any) -> Any:
        def answer() -> Any:
            self._store.put(Key, self._find(CopySource["Key"], "CopyObject").body)
            return self._answer()

        return self._request("CopyObject", f"{Key} {CopySource['Key']}", answer)

    def get_object(self, *, Bucket: str, Key: str, Range: str = "bytes=0-", **_: Any) -> Any:
        first, _, last = Range.removeprefix("bytes=").partition("-")

        def answer() -> Any:
            stored = self._find(Key, "GetObject")
            body = stored.body[int(first) : int(last) + 1 if last else None]
            return self._answer(LastModified=stored.modified, Body=io.BytesIO(body), ContentLength=len(body))

        return self._request("GetObject", Key, answer)

    def head_object(self, *, Bucket: str, Key: str, **_: Any) -> Any:
        def answer() -> Any:
            stored = self._find(Key, "HeadObject")
            return self._answer(LastModified=stored.modified, ContentLength=len(stored.body))

        return self._request("HeadObject", Key, answer)

    def delete_object(self, *, Bucket: str, Key: str, **_: Any) -> Any:
        def answer() -> Any:
            self._store.delete(Key)
            return self._answer()

        return self._request("DeleteObject", Key, answer)

    def delete_objects(self, *, Bucket: str, Delete: Any, **_: Any) -> Any:
        keys = [entry["Key"] for entry in Delete["Objects"]]

        def answer() -> Any:
            for key in keys:
                self._store.delete(key)
            return self._answer(Deleted=[{"Key": key} for key in keys])

        return self._request("DeleteObjects", " ".join(keys), answer)

    def list_objects_v2(
        self, *, Bucket: str, Prefix: str = "", Delimiter: str = "", StartAfter: str = "", **_: Any
    ) -> Any:
        def answer() -> Any:
            contents, folders = [], set()
            for key, stored in sorted(self._store.objects.items()):
                if not key.startswith(Prefix) or key <= StartAfter or key in self._store.unlisted:
                    continue
                name, slash, _ = key.removeprefix(Prefix).partition(Delimiter or "\0")
                if slash:
                    folders.add(Prefix + name + Delimiter)
                else:
                    contents.append({"Key": key, "Size": len(stored.body), "LastModified": stored.modified})
            prefixes = [{"Prefix": folder} for folder in sorted(folders)]
            return self._answer(Contents=contents, CommonPrefixes=prefixes, IsTruncated=False)

        return self._request("ListObjectsV2", Prefix, answer)

    def get_object_lock_configuration(self, *, Bucket: str) -> Any:
        raise _error(404, "ObjectLockConfigurationNotFoundError", "GetObjectLockConfiguration")

    def get_paginator(self, operation: str) -> Any:
        return _Paginator(getattr(self, operation))

    def _find(self, key: str, operation: str) -> Stored:
        try:
            return self._store.objects[key]
        except KeyError:
            if operation == "GetObject":
                raise self.exceptions.NoSuchKey(_response(404, "NoSuchKey"), operation) from None
            raise _error(404, "404", operation) from None

    def _answer(self, **answer: Any) -> Any:
        date = _date(self._store.now)
        return answer | {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": {"date": date}}}

    def _request(self, operation: str, key: str, answer: Callable[[], Any]) -> Any:
        return self._gate(Request(operation, key, self._store.now, answer))


class _Paginator:
    def __init__(self, operation: Callable[..., Any]) -> None:
        self._operation = operation

    def paginate(self, **arguments: Any) -> Iterator[Any]:
        yield self._operation(**arguments)


def _response(status: int, code: str) -> Any:
    return {
        "Error": {"Code": code, "Message": "said the simulation"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }


def _error(status: int, code: str, operation: str) -> ClientError:
    return ClientError(_response(status, code), operation)


def program_at_work() -> str:
    """Name of the program that asks; none in the simulation itself."""
    return str(getattr(greenlet.getcurrent(), "program", "none"))


class Program:
    """One program at work.

    :param run: what it does.
    :param hasty: which requests S3 refuses if much time has passed since they were signed. The others are taken to
        be signed when they are sent: the program was paused before.
    """

    def __init__(
        self, name: str, store: Store, run: Callable[[Program], None], hasty: Callable[[Request], bool]
    ) -> None:
        self.name = name
        self.waits_for: Request | None = None
        self.is_over = False
        self.end: BaseException | None = None
        self.history = 0
        """Of all answers so far: what the program will do depends on nothing else."""
        self._store = store
        self._hasty = hasty
        self._killed = False
        self.client = Client(store, self._gate)
        self._greenlet = greenlet.greenlet(functools.partial(self._run, run))
        self._greenlet.program = name

    def start(self) -> None:
        self._resume()

    def go(self) -> None:
        """Let its request take place."""
        request = self.waits_for
        assert request is not None
        is_late = self._store.now - request.signed > SKEW and self._hasty(request)
        try:
            if is_late:
                raise _error(403, "RequestTimeTooSkewed", request.operation)
            answer = request.answer()
        except ClientError as error:
            self._note(request, repr(error))
            self._resume(error)
        else:
            body = answer["Body"].getvalue() if "Body" in answer else b""
            self._note(request, repr([(name, v) for name, v in answer.items() if name != "Body"]), body)
            self._resume(answer=answer)

    def kill(self) -> None:
        if not self.is_over:
            self._killed = True
            self._resume(Killed())

    def wait(self) -> None:
        """Be called by the program itself, when it waits for others."""
        self._gate(Request("wait", "", self._store.now, dict))

    def _gate(self, request: Request) -> Any:
        if greenlet.getcurrent() is not self._greenlet or self._killed:
            raise Killed
        self.waits_for = request
        return self._greenlet.parent.switch()

    def _resume(self, error: BaseException | None = None, answer: Any = None) -> None:
        self.waits_for = None
        if error is not None:
            self._greenlet.throw(error)
        else:
            self._greenlet.switch(answer) if answer is not None else self._greenlet.switch()
        self.is_over = self._greenlet.dead

    def _run(self, run: Callable[[Program], None]) -> None:
        try:
            run(self)
        except (Exception, Killed) as error:
            self.end = error

    def _note(self, request: Request, answer: str, body: bytes = b"") -> None:
        self.history = hash((self.history, request.operation, request.key, request.signed, answer, body))
