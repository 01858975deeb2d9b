"""Pieces of a comparison, done in parallel, each with a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.reporting import Log, Progress, human
from airflow_pg_s3.core.repository.verification_record import Difference, TableResult
from airflow_pg_s3.core.restore.load.lanes import Lanes, Task
from airflow_pg_s3.core.verify.comparison.copy_reader import CopyReader


@dataclass
class Found:
    """What a piece of work has found.

    :param tables: results by the name of their member.
    """

    tables: dict[str, TableResult] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Take in what another piece has found."""
        self.tables |= other.tables
        self.differences += other.differences
        self.warnings += other.warnings


@dataclass(frozen=True, kw_only=True)
class Work:
    """A piece of work.

    :param raw_bytes: about how much it reads.
    :param is_first: whether to begin with it.
    """

    raw_bytes: int
    do: Callable[[CopyReader], Found]
    is_first: bool = False


def do_all(
    work: Sequence[Work], open_reader: Callable[[], CopyReader], *, jobs: int, cancel: threading.Event, log: Log
) -> Found:
    """Do all pieces of work, the largest first; what is found stays in their order.

    :param open_reader: makes the reader of each of so many jobs, on its own thread.
    :raises Cancelled: told to stop.
    """
    found: dict[int, Found] = {}
    total = sum(piece.raw_bytes for piece in work)

    def do(number: int, reader: CopyReader) -> None:
        found[number] = work[number].do(reader)

    def done() -> int:
        return sum(work[number].raw_bytes for number in list(found))

    progress = Progress(
        log,
        lambda s: f"compared {human(done())} of {human(total)}, {human(done() / max(s, 0.001))}/s",
        lambda: (done(), total),
    )

    def look() -> None:
        if cancel.is_set():
            raise Cancelled("the comparison was stopped")
        progress.tick()

    tasks = [
        Task(key=number, size=total if piece.is_first else piece.raw_bytes, work=partial(do, number))
        for number, piece in enumerate(work)
    ]
    Lanes(jobs, open_reader, stop=threading.Event()).run(tasks, look=look)
    progress.end()
    result = Found()
    for number in range(len(work)):
        result.add(found[number])
    return result
