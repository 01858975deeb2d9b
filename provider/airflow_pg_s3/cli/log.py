"""What a command says while it works, on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

from airflow_pg_s3.cli.output import give_up
from airflow_pg_s3.core.reporting import Log


class CommandLog(Log, Protocol):
    """A log that also takes the error that ends a command."""

    def error(self, message: str) -> None:
        """Say why the command has failed."""


class PlainLog:
    """Lines.

    :param wording: changes each message into this program's words.
    :param results: where a result goes that is a line; None if it is one line more.
    """

    def __init__(self, wording: Callable[[str], str], results: TextIO | None, *, quiet: bool) -> None:
        self._wording = wording
        self._results = results
        self._said: list[str] = []
        self._quiet = quiet

    def info(self, message: str, /, *args: Any) -> None:
        """Say what happens."""
        if not self._quiet:
            self._write(message % args if args else message)

    def result(self, message: str, /, *args: Any) -> None:
        """Say what has come of it."""
        if self._results is None:
            self.info(message, *args)
        else:
            # Written at the end, so that whoever does not take it cannot keep the rest from being done.
            self._said.append(self._wording(message % args))

    def warning(self, message: str, /, *args: Any) -> None:
        """Say what somebody should look at."""
        self._write(f"warning: {message % args if args else message}")

    def error(self, message: str) -> None:
        """Say why the command has failed."""
        self._write(f"error: {message}")

    def close(self) -> None:
        """Write the results; among the other lines, where nobody takes them."""
        if self._results is None or not self._said:
            return
        try:
            print(*self._said, sep="\n", file=self._results, flush=True)
        except OSError as error:
            give_up(self._results)
            self.warning("the result cannot be written (%s), which is:", error.strerror)
            for line in self._said:
                self._write(line)

    def _write(self, text: str) -> None:
        # A terminal that is gone must not keep what was begun from being undone.
        with contextlib.suppress(OSError):
            self._print(self._wording(text))

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class TerminalLog(PlainLog):
    """Lines, and below them a bar while something is going on."""

    def __init__(self, wording: Callable[[str], str], results: TextIO | None, *, quiet: bool) -> None:
        # Not above: who writes into a file need not wait for it.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.table import Column

        super().__init__(wording, results, quiet=quiet)
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None)
        self._is_shown = False

    def show_progress(self, line: str, done: int, total: int | None) -> None:
        """Move the bar.

        :param total: None if nobody knows how much is to be done.
        """
        if self._quiet:
            return
        self._progress.update(self._task, description=line, completed=done, total=total)
        if not self._is_shown:
            self._is_shown = True
            self._progress.start()

    def end_stage(self) -> None:
        """Take the bar away: what is written next may go to the same terminal by another way."""
        self._progress.stop()
        self._is_shown = False

    def close(self) -> None:
        """Take the bar away, and write the results."""
        self.end_stage()
        super().close()

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


@contextlib.contextmanager
def open_log(wording: Callable[[str], str], results: TextIO | None, *, quiet: bool) -> Iterator[CommandLog]:
    """Open the log that fits standard error."""
    log = (TerminalLog if sys.stderr.isatty() else PlainLog)(wording, results, quiet=quiet)
    try:
        yield log
    finally:
        log.close()
