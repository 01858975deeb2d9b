"""Output for people: the log, progress lines, sizes, ages, tables; and durations as people write them."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol

INTERVAL_SECONDS = 10.0
_BAR_SECONDS = 0.1
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


class Log(Protocol):
    """The log for people: Airflow's task log, or any `logging.Logger`."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log what happens."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log what somebody should check."""


def begin_stage(log: Log, name: str) -> None:
    """Let a log that has stages, a method ``begin_stage``, begin one."""
    begin = getattr(log, "begin_stage", None)
    if begin is not None:
        begin(name)


def end_stage(log: Log) -> None:
    """Let a log that has stages, a method ``end_stage``, end the last one: what comes next is the result."""
    end = getattr(log, "end_stage", None)
    if end is not None:
        end()


def say_result(log: Log, message: str, *args: Any) -> None:
    """Log what has come of it; a log that has a place for that, a method ``result``, puts it there."""
    getattr(log, "result", log.info)(message, *args)


class Progress:
    """A progress line at most every ten seconds, and one at the end; a bar, where the log has one.

    :param log: gets each line; one with a method ``show_progress`` (line, bytes done, bytes in all or None) shows
        a bar.
    :param line: returns the line, given the seconds since the beginning.
    :param amounts: bytes done, and bytes in all; None if nobody knows.
    """

    def __init__(
        self,
        log: Log,
        line: Callable[[float], str],
        amounts: Callable[[], tuple[int, int | None]] = lambda: (0, None),
    ) -> None:
        self._say = log.info
        self._show = getattr(log, "show_progress", None)
        self._line = line
        self._amounts = amounts
        self._shown = 0.0
        self._began = time.monotonic()
        self._last = self._began

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def tick(self) -> None:
        """Emit a line, or move the bar, if it is time for that."""
        now = time.monotonic()
        if self._show is not None and now - self._shown >= _BAR_SECONDS:
            self._shown = now
            self._show(self._line(self.seconds), *self._amounts())
        elif self._show is None and now - self._last >= INTERVAL_SECONDS:
            self.end()

    def end(self) -> None:
        """Emit a line now."""
        self._last = time.monotonic()
        self._say("%s", self._line(self.seconds))


def byte_progress(log: Log, verb: str, done: Callable[[], int], total: int, *, of: str = "") -> Progress:
    """Report how many bytes are done, as in ``read 1.0 MB of 4.0 MB, 2.0 MB/s``.

    :param verb: what was done to them.
    :param done: returns how many they are so far.
    :param of: what they are bytes of, after the total.
    """

    def line(seconds: float) -> str:
        now = done()
        return f"{verb} {human(now)} of {human(total)}{of}, {human(now / max(seconds, 0.001))}/s"

    return Progress(log, line, lambda: (done(), total))


def plural(number: int, noun: str) -> str:
    """Format a number of things, such as ``1 backup`` and ``2,000 backups``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def near(name: str, names: Iterable[str]) -> list[str]:
    """Return those of some names of tables or schemas that come near a mistyped one, the nearest first.

    What they have in common before a dot makes them no more alike; quotes and case make them no less.
    """
    typed, names = _folded(name), list(names)
    own = {_folded(each): _folded(each).rpartition(".")[2] for each in names}
    alike = set(difflib.get_close_matches(typed.rpartition(".")[2], set(own.values())))
    found = difflib.get_close_matches(typed, [each for each in own if own[each] in alike])
    return [each for one in found for each in names if _folded(each) == one]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Ask whether a name near a mistyped one is meant; an empty text if none is near."""
    alike = near(name, names)
    same = [each for each in alike if _folded(each) == _folded(name)]
    rule = "names are taken as they are written, without quotes and with their case: " if same else ""
    return f"{rule}did you mean {' or '.join(same or alike)}?" if alike else ""


def _folded(name: str) -> str:
    return name.replace('"', "").lower()


def some_of(names: Sequence[str], shown: int) -> str:
    """List names for people, and say how many more there are, as in ``a, b and 3 more``.

    :param shown: how many are listed at most.
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def human(size: float) -> str:
    """Format a number of bytes for people, in the decimal units of disks and networks."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def duration(seconds: float) -> str:
    """Format a time for people, such as ``40 s``, ``5 min`` and ``2 h 10 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def parse_duration(text: str) -> timedelta:
    """Read a duration such as ``26h``.

    :raises ValueError: it is none.
    """
    match = re.fullmatch(r"(\d{1,6})(s|min|h|d)", text)
    if match is None:
        raise ValueError(f"must be a duration such as 90min, 26h or 2d, not {text!r}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> list[str]:
    """Lay a table out in lines, its columns aligned.

    :param numbers: names of the columns that are aligned to the right.
    """
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()
        for row in table
    ]


def human_age(seconds: float) -> str:
    """Format an age for people, in whole seconds, minutes, hours or days; the sign is dropped."""
    for unit, unit_seconds, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if abs(seconds) < most * unit_seconds:
            return f"{abs(seconds) // unit_seconds:.0f} {unit}"
    return f"{abs(seconds) // 86400:.0f} d"
