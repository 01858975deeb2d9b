"""Signals that ask a command to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A command that has nothing to undo was asked to stop."""


class Stop:
    """Whether the command was asked to stop.

    :param may_undo: whether it looks at `cancel`, and then undoes what it has begun; otherwise it ends at once.
    """

    def __init__(self, *, may_undo: bool) -> None:
        self.cancel = threading.Event()
        self.number: int | None = None
        self._may_undo = may_undo

    def ask(self, number: int, _: FrameType | None) -> None:
        """Handle a signal; another one must not interrupt what the first has led to."""
        was_asked = self.number is not None
        self.number = number
        self.cancel.set()
        if self._may_undo:
            said = "still undoing what was begun" if was_asked else "stopping; what was begun is undone first"
            with suppress(OSError):  # the terminal is gone
                os.write(sys.stderr.fileno(), f"\n{said} …\n".encode())
        elif not was_asked:
            raise Stopped


@contextmanager
def stop_on_signals(*, may_undo: bool) -> Iterator[Stop]:
    """Take note of signals while a command runs."""
    stop = Stop(may_undo=may_undo)
    # What is ignored stays so, as for nohup.
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_by(number: int) -> NoReturn:
    """End this process by a signal, so that a shell sees why, and ends its loop or script as well."""
    with suppress(OSError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)
