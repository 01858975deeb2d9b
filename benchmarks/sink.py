"""An S3 server that throws bodies away: what a backup takes when S3 itself takes nothing.

It knows the requests that a backup makes, keeps small objects and the sizes of the others, and checks nothing.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from testkit.s3 import S3Server
from testkit.sandbox import Sandbox, accepts_connections, environment_without

ROOT = Path(__file__).parents[1]
_BUFFER_BYTES = 1 << 20
_KEPT_BYTES = 1 << 20


class _Store:
    """What is left of the bodies: of small ones all, of large ones the length."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.bodies: dict[str, bytes] = {}
        self.written: dict[str, datetime] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # An answer is one packet: its body does not wait for an acknowledgment of its headers.
    store = _Store()

    def do_PUT(self) -> None:
        body, size = self._receive()
        key, _ = self._asked()
        self.store.bodies[key] = body
        self.store.written[key] = datetime.now(UTC)
        self.store.sizes[key] = size
        self._answer(written=self.store.written[key])

    def do_GET(self) -> None:
        key, query = self._asked()
        if "list-type" in query:
            self._list(key.rstrip("/"), query)
        elif key in self.store.sizes:
            self._answer(self.store.bodies[key], written=self.store.written[key])
        else:
            self._answer(b"<Error><Code>NoSuchKey</Code></Error>", status=404)

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        is_bucket = "/" not in key.rstrip("/")
        written = self.store.written.get(key)
        self._answer(status=200 if is_bucket or written else 404, written=written)

    def do_DELETE(self) -> None:
        key, _ = self._asked()
        self.store.sizes.pop(key, None)
        self._answer(status=204)

    def handle_expect_100(self) -> bool:
        """Say at once that the body may come."""
        self.send_response_only(100)
        self.end_headers()
        self.wfile.flush()
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _asked(self) -> tuple[str, dict[str, str]]:
        """``bucket/key``, and what follows the question mark."""
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        return unquote(url.path).lstrip("/"), {name: values[0] for name, values in query.items()}

    def _receive(self) -> tuple[bytes, int]:
        size = int(self.headers.get("Content-Length") or 0)
        if size <= _KEPT_BYTES:
            return self.rfile.read(size), size
        rest, buffer = size, memoryview(bytearray(_BUFFER_BYTES))
        while rest:
            rest -= self.rfile.readinto(buffer[:rest])  # type: ignore[attr-defined]
        return b"", size

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = f"{bucket}/{query.get('prefix', '')}", query.get("delimiter", "")
        contents, folders = "", set()
        for key, size in sorted(self.store.sizes.items()):
            if key.startswith(prefix):
                head, found, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else ("", "", "")
                if found:
                    folders.add((prefix + head + delimiter).partition("/")[2])
                else:
                    name = key.partition("/")[2]
                    written = f"<LastModified>{self.store.written[key].isoformat()}</LastModified>"
                    contents += f"<Contents><Key>{name}</Key><Size>{size}</Size>{written}</Contents>"
        common = "".join(
            f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in sorted(folders)
        )
        told = f"<IsTruncated>false</IsTruncated>{contents}{common}"
        self._answer(f"<ListBucketResult>{told}</ListBucketResult>".encode())

    def _answer(self, body: bytes = b"", *, status: int = 200, written: datetime | None = None) -> None:
        self.send_response(status)
        if written is not None:
            self.send_header("ETag", '"0"')
            self.send_header("Last-Modified", format_datetime(written, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Sink(S3Server):
    """The server, in a process of its own."""

    def _start(self, sandbox: Sandbox) -> None:
        argv = [sys.executable, "-m", "benchmarks.sink", str(self._port)]
        sandbox.start("sink", argv, env=environment_without("AWS_") | {"PYTHONPATH": str(ROOT)})
        sandbox.wait_until_ready("sink", lambda: accepts_connections(self._port))


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
