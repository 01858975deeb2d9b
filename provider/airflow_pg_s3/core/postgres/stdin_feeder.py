"""Feeds a stream to a client program's standard input."""

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

_POLL_SECONDS = 0.01
_PATIENCE_SECONDS = 0.5


class StdinFeeder:
    """Writes a stream into a socket on a thread of its own, and ends it only after the complete stream.

    The reader must not take a stream that broke off for one that ended, even if this process is killed. So the
    reader inherits the writing end, too: then only `shutdown` ends the stream, and a reader that gets no more data
    waits until the janitor kills it. A pipe has no such shutdown.

    The program must have ended before the context ends.

    :param chunks: the stream; `check` raises its errors.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.poured_bytes = 0
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="feed", daemon=True)

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
        """Begin to feed the program, which must have inherited `reader` as standard input, and `writer`."""
        # If this process kept the reading end open, the thread would not notice that the program has ended.
        self.reader.close()
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """True if the stream has ended, with or without an error."""
        return not self._thread.is_alive()

    def check(self) -> None:
        """Raise the error that ended the stream, if there is one."""
        if self._error is not None:
            raise self._error

    def _feed(self) -> None:
        reader_has_left = False
        try:
            for chunk in self._chunks:
                if self._stop.is_set():
                    return
                if not reader_has_left:
                    # A program may close its input early. The rest of the stream is read all the same: its
                    # checksums are at its end.
                    reader_has_left = not self._write(chunk)
                self.poured_bytes += len(chunk)
            with contextlib.suppress(OSError):  # nobody reads any more
                self.writer.shutdown(socket.SHUT_WR)
        except BaseException as error:
            self._error = error

    def _write(self, chunk: bytes) -> bool:
        """Write a whole chunk; return False if the program has closed its input."""
        view = memoryview(chunk)
        while view:
            try:
                view = view[self.writer.send(view) :]
            except TimeoutError:
                # The program may be busy for minutes without reading.
                if self._stop.is_set():
                    raise Cancelled("stopped while nobody read a program's input") from None
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True


class Judge(Protocol):
    """Decides by a program's standard error whether it has succeeded."""

    def see(self, line: str) -> None:
        """Parse a line of standard error; called on another thread."""

    @property
    def is_hopeless(self) -> bool:
        """True if the program can no longer succeed."""

    def check(self, program: ClientProgram) -> None:
        """Raise unless the program has succeeded; called when it has ended or `is_hopeless`."""


def run_with_stdin(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    chunks: Iterator[bytes] | None,
    judge: Judge,
    cancel: threading.Event,
    log: Log,
) -> int:
    """Run a client program to its end; return the number of bytes fed to its standard input.

    :param chunks: the stream for its standard input; None for no input.
    :raises Cancelled: `cancel` was set.
    """
    with ExitStack() as stack:
        feeder = stack.enter_context(StdinFeeder(chunks)) if chunks is not None else None
        stdin = feeder.reader.fileno() if feeder is not None else subprocess.DEVNULL
        keep = [feeder.writer.fileno()] if feeder is not None else []
        program = stack.enter_context(running(argv, env=env, on_line=judge.see, stdin=stdin, keep=keep))
        progress = Progress(
            log, lambda s: f"fed {human(size())} to {program.name}, {human(size() / max(s, 0.001))}/s"
        )

        def size() -> int:
            return feeder.poured_bytes if feeder is not None else 0

        def poll(seconds: float = _POLL_SECONDS) -> None:
            if cancel.wait(seconds):
                raise Cancelled(f"stopped while {program.name} was at work; the database is incomplete")
            if feeder is not None:
                feeder.check()
                progress.tick()

        if feeder is not None:
            feeder.start()
        while program.poll() is None and not judge.is_hopeless:
            poll()
        # Airflow signals the whole process group: the program may have ended before this process noticed.
        poll(0)
        judge.check(program)
        while feeder is not None and not feeder.is_done:
            poll()
        if feeder is not None:
            feeder.check()
            progress.end()
        return size()
