"""A TCP proxy that drops idle connections, as NATs, load balancers and meshes do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import Self

from testkit.postgres import Cluster
from testkit.sandbox import free_port

_BLOCK_BYTES = 1 << 16


class TcpProxy:
    """A proxy in front of a PostgreSQL server. Use as a `with` block.

    :param idle_seconds: how long a connection may idle in both directions; TCP's keepalives do not count.
    """

    host = "127.0.0.1"

    def __init__(self, cluster: Cluster, *, idle_seconds: float) -> None:
        self._cluster = cluster
        self._idle_seconds = idle_seconds
        self.cuts = 0
        """Number of connections that were dropped."""

    def __enter__(self) -> Self:
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self._serve(ready)), name="tcp proxy", daemon=True
        )
        self._thread.start()
        if not ready.wait(30):
            raise TimeoutError("the TCP proxy has not started")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)

    @property
    def keywords(self) -> dict[str, str]:
        """See `Cluster.keywords`."""
        return self._cluster.keywords | {"host": self.host, "port": str(self.port)}

    def airflow_connection(self, dbname: str = "postgres") -> str:
        """Return JSON for an AIRFLOW_CONN_* variable."""
        return json.dumps(json.loads(self._cluster.airflow_connection(dbname)) | {"port": self.port})

    async def _serve(self, ready: threading.Event) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._relay, self.host, self.port)
        ready.set()
        await self._end.wait()
        server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._cluster.host, self._cluster.port)
        heard = [self._loop.time()]

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(_BLOCK_BYTES):
                heard[0] = self._loop.time()
                target.write(data)
                await target.drain()

        pumps = [
            asyncio.ensure_future(pump(reader, server_writer)),
            asyncio.ensure_future(pump(server_reader, writer)),
        ]
        while not any(each.done() for each in pumps):
            left = heard[0] + self._idle_seconds - self._loop.time()
            if left <= 0:
                self.cuts += 1
                break
            await asyncio.wait(pumps, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for each in pumps:
            each.cancel()
        for each in pumps:
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await each
        for end in (writer, server_writer):
            end.transport.abort() if self.cuts else end.close()
