"""Fills a client program's standard input from a stream."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.postgres.client_program import ClientProgram, running
from airflow_pg_s3.core.reporting import Log, Progress, human

_LOOK_SECONDS = 0.01
_PATIENCE_SECONDS = 0.5


class StdinFeeder:
    """Pours a stream into a socket, on a thread of its own, and ends it only if all of the stream has come.

    Whoever reads must not take a stream that broke off for one that ended, also when this process is killed. So
    the reader itself is given the writing end, too: that way only `shutdown` ends the stream, and a reader that
    gets no more waits, until the janitor kills it. A pipe knows no such end.

    The program must have ended before the context does.

    :param chunks: the stream; what it raises, `check` raises.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.poured_bytes = 0
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pour, name="pour", daemon=True)

    def __enter__(self) -> StdinFeeder:
        self.reader, self.writer = socket.socketpair()
        self.writer.settimeout(_PATIENCE_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self.reader.close()
        if self._thread.ident is not None:
            self._thread.join()
        self.writer.close()

    def start(self) -> None:
        """Begin, once a program has `reader` as its standard input, and `writer` as well."""
        # Or a program that goes away would leave the socket open, and the thread waiting.
        self.reader.close()
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether the stream has ended, well or not."""
        return not self._thread.is_alive()

    def check(self) -> None:
        """Raise what has gone wrong so far."""
        if self._error is not None:
            raise self._error

    def _pour(self) -> None:
        reader_has_left = False
        try:
            for chunk in self._chunks:
                if self._stop.is_set():
                    return
                if not reader_has_left:
                    # It may have all that it wants. What is left is read nevertheless: the stream's end holds the
                    # check sums of what came before.
                    reader_has_left = not self._write(chunk)
                self.poured_bytes += len(chunk)
            with contextlib.suppress(OSError):  # nobody reads any more
                self.writer.shutdown(socket.SHUT_WR)
        except BaseException as error:
            self._error = error

    def _write(self, chunk: bytes) -> bool:
        """Write all of it; say whether somebody reads."""
        view = memoryview(chunk)
        while view:
            try:
                view = view[self.writer.send(view) :]
            except TimeoutError:
                # The reader may have other things to do for minutes.
                if self._stop.is_set():
                    raise Cancelled("stopped while nobody read a program's input") from None
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True


class Judge(Protocol):
    """Tells from a program's standard error what becomes of it."""

    def see(self, line: str) -> None:
        """Look at a line of standard error; called on another thread."""

    @property
    def is_hopeless(self) -> bool:
        """Whether there is no point in going on."""

    def check(self, program: ClientProgram) -> None:
        """Raise unless the program has done its work; called once it has ended, or is hopeless."""


def run_with_stdin(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    chunks: Iterator[bytes] | None,
    judge: Judge,
    cancel: threading.Event,
    log: Log,
) -> int:
    """Run a client program to its end, and return the bytes that were poured into its standard input.

    :param chunks: what it reads there; None for a program that reads nothing.
    :raises Cancelled: told to stop.
    """
    with ExitStack() as stack:
        pour = stack.enter_context(StdinFeeder(chunks)) if chunks is not None else None
        stdin = pour.reader.fileno() if pour is not None else subprocess.DEVNULL
        keep = [pour.writer.fileno()] if pour is not None else []
        program = stack.enter_context(running(argv, env=env, on_line=judge.see, stdin=stdin, keep=keep))
        poured = Progress(
            log, lambda s: f"fed {human(size())} to {program.name}, {human(size() / max(s, 0.001))}/s"
        )

        def size() -> int:
            return pour.poured_bytes if pour is not None else 0

        def look(seconds: float = _LOOK_SECONDS) -> None:
            if cancel.wait(seconds):
                raise Cancelled(f"stopped while {program.name} was at work; the database is incomplete")
            if pour is not None:
                pour.check()
                poured.tick()

        if pour is not None:
            pour.start()
        while program.poll() is None and not judge.is_hopeless:
            look()
        # Airflow ends the whole process group: the program may have heeded it first.
        look(0)
        judge.check(program)
        while pour is not None and not pour.is_done:
            look()
        if pour is not None:
            pour.check()
            poured.end()
        return size()
