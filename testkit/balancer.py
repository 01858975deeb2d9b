"""A TCP endpoint in front of several servers, as load balancers are."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable
from typing import Self


class Balancer:
    """Forwards each connection to a port of this machine. Use as a `with` block.

    :param route: returns the port for the number of a connection, from 0.
    """

    host = "127.0.0.1"

    def __init__(self, route: Callable[[int], int]) -> None:
        self._route = route
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # raised when the listener is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self.host, self._route(next(self._numbers))))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=[source, target], daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
