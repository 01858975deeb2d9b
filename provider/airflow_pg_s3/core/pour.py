"""Fills a client program's standard input from a stream."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.pipe import enlarge, write_all
from airflow_pg_s3.core.process import ClientProgram, running
from airflow_pg_s3.core.progress import Log, Progress, human

_LOOK_SECONDS = 0.01


class Pour:
    """Pours a stream into a pipe, on a thread of its own, and closes the pipe only if all of the stream has come.

    A program that reads the pipe must have ended before the context does: otherwise it could take a stream that
    broke off for one that ended.

    :param chunks: the stream; what it raises, `check` raises.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.poured_bytes = 0
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pour, name="pour", daemon=True)

    def __enter__(self) -> Pour:
        self.reader, self._writer = os.pipe()
        enlarge(self._writer)
        os.set_blocking(self._writer, False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._close_reader()
        if self._thread.ident is not None:
            self._thread.join()
        self._close_writer()

    def start(self) -> None:
        """Begin, once a program has `reader` as its standard input."""
        # Or a program that goes away would leave the pipe open, and the thread waiting.
        self._close_reader()
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
            self._close_writer()
        except BaseException as error:
            self._error = error

    def _write(self, chunk: bytes) -> bool:
        try:
            write_all(self._writer, chunk, self._stop)
        except BrokenPipeError:
            return False
        return True

    def _close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def _close_writer(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1


def pour_into(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    chunks: Iterator[bytes] | None,
    on_line: Callable[[str], None],
    is_hopeless: Callable[[], bool],
    check: Callable[[ClientProgram], None],
    cancel: threading.Event,
    log: Log,
) -> int:
    """Run a client program to its end, and return the bytes that were poured into its standard input.

    :param chunks: what it reads there; None for a program that reads nothing.
    :param on_line: called with each line of its standard error, on another thread.
    :param is_hopeless: whether there is no point in going on.
    :param check: called once it has ended, or is hopeless; raises unless it has done its work.
    :raises Cancelled: told to stop.
    """
    with ExitStack() as stack:
        pour = stack.enter_context(Pour(chunks)) if chunks is not None else None
        stdin = pour.reader if pour is not None else subprocess.DEVNULL
        program = stack.enter_context(running(argv, env=env, on_line=on_line, stdin=stdin))
        poured = Progress(
            log.info, lambda s: f"fed {human(size())} to {program.name}, {human(size() / max(s, 0.001))}/s"
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
        while program.poll() is None and not is_hopeless():
            look()
        # Airflow ends the whole process group: the program may have heeded it first.
        look(0)
        check(program)
        while pour is not None and not pour.is_done:
            look()
        if pour is not None:
            pour.check()
            poured.end()
        return size()
