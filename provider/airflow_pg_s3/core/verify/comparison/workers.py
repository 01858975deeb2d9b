"""The pieces of a comparison, done in parallel, with a connection for each job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.reporting import Log, byte_progress
from airflow_pg_s3.core.repository.verification_record import Difference, TableResult
from airflow_pg_s3.core.restore.load.lanes import Lanes, Task
from airflow_pg_s3.core.verify.comparison.copy_reader import CopyReader


@dataclass
class Found:
    """The findings of a piece of work.

    :param tables: results of tables by member name.
    """

    tables: dict[str, TableResult] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Add the findings of another piece."""
        self.tables |= other.tables
        self.differences += other.differences
        self.warnings += other.warnings


@dataclass(frozen=True, kw_only=True)
class Work:
    """A piece of work.

    :param raw_bytes: approximate size of what it reads.
    :param is_first: whether it is begun before all others.
    """

    raw_bytes: int
    do: Callable[[CopyReader], Found]
    is_first: bool = False


def do_all(
    work: Sequence[Work], open_reader: Callable[[], CopyReader], *, jobs: int, cancel: threading.Event, log: Log
) -> Found:
    """Do all pieces of work, the largest first; findings are returned in the order of `work`.

    :param open_reader: called for each job, on its thread.
    :raises Cancelled: `cancel` was set.
    """
    found: dict[int, Found] = {}
    total = sum(piece.raw_bytes for piece in work)

    def do(number: int, reader: CopyReader) -> None:
        found[number] = work[number].do(reader)

    def done() -> int:
        return sum(work[number].raw_bytes for number in list(found))

    progress = byte_progress(log, "compared", done, total)

    def poll() -> None:
        if cancel.is_set():
            raise Cancelled("the comparison was stopped")
        progress.tick()

    tasks = [
        Task(key=number, size=total if piece.is_first else piece.raw_bytes, work=partial(do, number))
        for number, piece in enumerate(work)
    ]
    Lanes(jobs, open_reader, stop=threading.Event()).run(tasks, poll=poll)
    progress.end()
    result = Found()
    for number in range(len(work)):
        result.add(found[number])
    return result
