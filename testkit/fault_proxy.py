"""An S3 proxy that injects faults into requests and responses."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar, Self

from aiohttp import ClientSession, web
from multidict import CIMultiDict
from yarl import URL

from testkit.s3 import S3Server
from testkit.sandbox import free_port

# Headers of one connection only (RFC 9110, 7.6.1), or set anew by the client that forwards the request.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}
BODY_LIMIT_BYTES = 64 << 20

# (method, whether there is a key, a parameter that the query must hold, operation); the first that matches counts.
OPERATIONS = (
    ("GET", False, "uploads", "ListMultipartUploads"),
    ("GET", False, "", "ListObjectsV2"),
    ("POST", False, "delete", "DeleteObjects"),
    ("HEAD", False, "", "HeadBucket"),
    ("GET", True, "uploadId", "ListParts"),
    ("GET", True, "", "GetObject"),
    ("HEAD", True, "", "HeadObject"),
    ("PUT", True, "partNumber", "UploadPart"),
    ("PUT", True, "", "PutObject"),
    ("POST", True, "uploads", "CreateMultipartUpload"),
    ("POST", True, "restore", "RestoreObject"),
    ("POST", True, "uploadId", "CompleteMultipartUpload"),
    ("DELETE", True, "uploadId", "AbortMultipartUpload"),
    ("DELETE", True, "", "DeleteObject"),
)


@dataclass(frozen=True)
class Request:
    """A request as it was received.

    :param index: its number, from 0, in the order of arrival since the last `FaultProxy.reset`.
    :param operation: S3's name for it, such as ``UploadPart``.
    :param key: the object's key, percent-encoded as it was sent; empty for operations on a bucket.
    """

    index: int
    operation: str
    method: str
    key: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """A response of the server behind the proxy."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


class Fault:
    """A fault in one request."""

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        """Handle the request with the fault."""
        raise NotImplementedError


@dataclass(frozen=True)
class Refuse(Fault):
    """The request is not forwarded; the response is an error."""

    status: int
    code: str
    headers: Mapping[str, str] | None = None
    message: str = "injected"

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        text = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>"
        body = b"" if request.method == "HEAD" else text.encode()
        return web.Response(status=self.status, body=body, headers=self.headers, content_type="application/xml")


@dataclass(frozen=True)
class Reset(Fault):
    """The connection is reset.

    :param when: ``before`` the request is forwarded; ``after`` the server has processed it, so that only the
        response is lost; ``midway`` through the response's body.
    """

    when: str

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        answer = None if self.when == "before" else await proxy.forward(request)
        response: web.StreamResponse = web.Response()
        if answer is not None and self.when == "midway":
            response = await _begin(answer, connection)
            await response.write(answer.body[: len(answer.body) // 2])
        _abort(connection)
        return response


@dataclass(frozen=True)
class FailLate(Fault):
    """The server has processed the request, but the response is an error 500."""

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        await proxy.forward(request)
        return await INTERNAL_ERROR.happen(proxy, request, connection)


@dataclass(frozen=True)
class Truncate(Fault):
    """The response's body ends half-way, and the connection is closed normally."""

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        answer = await proxy.forward(request)
        response = await _begin(answer, connection)
        await response.write(answer.body[: len(answer.body) // 2])
        if connection.transport is not None:
            connection.transport.close()
        return response


@dataclass(frozen=True)
class Corrupt(Fault):
    """One bit of the request's body is flipped or, if there is none, of the response's body."""

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        if request.body:
            return await _send(await proxy.forward(request, body=_flipped(request.body)), connection)
        answer = await proxy.forward(request)
        return await _send(Answer(answer.status, answer.headers, _flipped(answer.body)), connection)


@dataclass(frozen=True)
class Stall(Fault):
    """The response stalls half-way, until the client gives up."""

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        answer = await proxy.forward(request)
        response = await _begin(answer, connection)
        await response.write(answer.body[: len(answer.body) // 2])
        while connection.transport is not None and not connection.transport.is_closing():
            await asyncio.sleep(0.05)
        return response


@dataclass(frozen=True)
class StaleList(Fault):
    """A listing lacks its newest entry, as with eventual consistency."""

    _ENTRY: ClassVar = re.compile(rb"<(Contents|CommonPrefixes|Upload)>(?:(?!<\1>).)*?</\1>", re.DOTALL)

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        answer = await proxy.forward(request)
        entries = list(self._ENTRY.finditer(answer.body))
        if entries:
            start, end = entries[-1].span()
            answer = Answer(answer.status, answer.headers, answer.body[:start] + answer.body[end:])
        return await _send(answer, connection)


SLOW_DOWN = Refuse(503, "SlowDown")
INTERNAL_ERROR = Refuse(500, "InternalError")
TOO_MANY = Refuse(429, "TooManyRequests")
EXPIRED = Refuse(400, "ExpiredToken")
DENIED = Refuse(403, "AccessDenied")

Rule = Callable[[Request], Fault | None]


class FaultProxy(S3Server):
    """A proxy in front of an S3 server, with the faults that `rule` chooses. Use as a `with` block.

    Requests are numbered as they arrive, so that with one job, a rule by index always hits the same request.

    :param behind: a running server.
    :param hosts: host names of buckets, for clients that use this as an HTTP proxy.
    """

    def __init__(self, behind: S3Server, *, hosts: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._hosts = hosts or {}
        self.access_key, self.secret_key = behind.access_key, behind.secret_key
        self.config_kwargs = behind.config_kwargs
        self._behind = behind
        self.reset()

    def reset(self, rule: Rule | None = None) -> None:
        """Forget all requests, and use `rule` from now on; None for no faults."""
        self.rule = rule
        self.requests: list[Request] = []
        self.faults: list[tuple[Request, Fault]] = []

    def __enter__(self) -> Self:
        self._port = free_port()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[ready], name="fault proxy", daemon=True)
        self._thread.start()
        if not ready.wait(30):
            raise TimeoutError("the fault proxy has not started")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)

    async def forward(self, request: Request, *, body: bytes | None = None) -> Answer:
        """Forward a request to the server behind."""
        # The Host header stays the request's own, which is signed.
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP)
        url = URL(f"{self._behind.endpoint_url}{request.headers[':path']}", encoded=True)
        headers.pop(":path")
        sent = request.body if body is None else body
        async with self._session.request(
            request.method, url, headers=headers, data=sent, allow_redirects=False
        ) as answer:
            return Answer(answer.status, CIMultiDict(answer.headers), await answer.read())

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(ready))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._end = asyncio.Event()
        application = web.Application(client_max_size=BODY_LIMIT_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        async with ClientSession(auto_decompress=False) as self._session:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            ready.set()
            await self._end.wait()
            await runner.cleanup()

    async def _handle(self, connection: web.Request) -> web.StreamResponse:
        body = await connection.read()
        headers = dict(connection.headers)
        raw_path = connection.raw_path
        if raw_path.startswith("http://"):
            host, _, rest = raw_path.removeprefix("http://").partition("/")
            raw_path = f"/{self._hosts[host]}/{rest}"
            headers["Host"] = self._behind.endpoint_url.removeprefix("http://")
        path, _, query = raw_path.partition("?")
        key = path.lstrip("/").partition("/")[2]
        request = Request(
            index=len(self.requests),
            operation=_operation(connection.method, key, query),
            method=connection.method,
            key=key,
            query=query,
            headers={**headers, ":path": raw_path},
            body=body,
        )
        self.requests.append(request)
        fault = self.rule(request) if self.rule is not None else None
        if fault is None:
            return await _send(await self.forward(request), connection)
        self.faults.append((request, fault))
        return await fault.happen(self, request, connection)


def at(index: int, fault: Fault) -> Rule:
    """Return a rule for one fault, at the request of this index."""
    return lambda request: fault if request.index == index else None


def since(index: int, fault: Fault) -> Rule:
    """Return a rule for an outage: the same fault at every request from this index on."""
    return lambda request: fault if request.index >= index else None


def _operation(method: str, key: str, query: str) -> str:
    names = {part.partition("=")[0] for part in query.split("&")}
    for verb, has_key, needed, name in OPERATIONS:
        if verb == method and has_key == bool(key) and (not needed or needed in names):
            return name
    return f"{method} {query}"


def _flipped(body: bytes) -> bytes:
    if not body:
        return body
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def _abort(connection: web.Request) -> None:
    if connection.transport is not None:
        connection.transport.abort()


async def _begin(answer: Answer, connection: web.Request) -> web.StreamResponse:
    headers = CIMultiDict((k, v) for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP)
    response = web.StreamResponse(status=answer.status, headers=headers)
    if connection.method == "HEAD" and "Content-Length" in answer.headers:
        response.content_length = int(answer.headers["Content-Length"])
    elif answer.status != HTTPStatus.NO_CONTENT:
        response.content_length = len(answer.body)
    await response.prepare(connection)
    return response


async def _send(answer: Answer, connection: web.Request) -> web.StreamResponse:
    response = await _begin(answer, connection)
    if connection.method != "HEAD":
        await response.write(answer.body)
    await response.write_eof()
    return response
