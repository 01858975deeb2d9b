"""What keeps a pipe from ending early: a second holder of its write end, which outlives the task.

When a process dies, the kernel closes its pipes, and whoever reads takes that for the data's end. So the janitor,
which first kills the readers, holds the write ends along with us (see `janitor`), until all has been written.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable

LetGo = Callable[[], None]
# Given the write end of a pipe, before anything is written; what it returns is to be called when the pipe may end.
Hold = Callable[[int], LetGo]

# It answers within microseconds, unless somebody has stopped it, or the machine is swapping.
_PATIENCE_SECONDS = 30.0


class Holder:
    """The owner's end of the janitor's standard input. Its methods can be called on any thread.

    A janitor that is gone is no reason to fail: it is needed only if we are killed too, and what it would clean up
    then, the next workspace does. So all goes on as if there had never been one.

    :param line: socket to the janitor, of type SOCK_SEQPACKET.
    :param give_up: kills the janitor, and so closes what it holds; called when it does not answer.
    """

    def __init__(self, line: socket.socket, give_up: Callable[[], None]) -> None:
        self._line = line
        # Also bounds a message that finds the buffer full.
        self._line.settimeout(_PATIENCE_SECONDS)
        self._give_up = give_up
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def hold(self, descriptor: int) -> LetGo:
        """Let the janitor hold a descriptor, from now on: the message that carries it holds it as well."""
        number = b"%d" % next(self._numbers)
        with self._lock:
            try:
                socket.send_fds(self._line, [b"+" + number], [descriptor])
            except OSError:
                return _nothing
        return lambda: self._let_go(number)

    def close(self) -> None:
        """Tell the janitor to clean up."""
        self._line.close()

    def _let_go(self, number: bytes) -> None:
        # The reader waits for it. If no answer came, it could wait for ever.
        with self._lock, contextlib.suppress(OSError):
            self._line.send(b"-" + number)
            while (answer := self._line.recv(len(number) + 1)) and answer != number:
                pass
            if answer:
                return
        self._give_up()


def _nothing() -> None:
    """Let go of what nobody has taken."""
