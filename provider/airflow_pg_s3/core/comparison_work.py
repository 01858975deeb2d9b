"""Pieces of a comparison, done in parallel, each with a connection of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from airflow_pg_s3.core.copy_reader import CopyReader
from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.evidence import Difference, TableResult
from airflow_pg_s3.core.progress import Log, Progress, human

_LOOK_SECONDS = 0.1


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


def do_all(work: Sequence[Work], readers: Sequence[CopyReader], *, cancel: threading.Event, log: Log) -> Found:
    """Do all pieces of work, as many at a time as there are readers; what is found stays in their order.

    :raises Cancelled: told to stop.
    """
    idle: queue.SimpleQueue[CopyReader] = queue.SimpleQueue()
    for reader in readers:
        idle.put(reader)
    done_bytes = 0
    lock = threading.Lock()

    def do(piece: Work) -> Found:
        nonlocal done_bytes
        reader = idle.get()
        try:
            return piece.do(reader)
        finally:
            idle.put(reader)
            with lock:
                done_bytes += piece.raw_bytes

    total = sum(piece.raw_bytes for piece in work)
    progress = Progress(
        log.info,
        lambda seconds: (
            f"compared {human(done_bytes)} of {human(total)}, {human(done_bytes / max(seconds, 0.001))}/s"
        ),
    )
    pool = ThreadPoolExecutor(len(readers), thread_name_prefix="compare")
    try:
        # The largest first, so that none is begun when the others are at their end.
        largest_first = sorted(range(len(work)), key=lambda n: (not work[n].is_first, -work[n].raw_bytes))
        futures = {number: pool.submit(do, work[number]) for number in largest_first}
        waiting = set(futures.values())
        while waiting:
            ended, waiting = wait(waiting, timeout=_LOOK_SECONDS, return_when=FIRST_EXCEPTION)
            for future in ended:
                future.result()
            if cancel.is_set():
                raise Cancelled("the comparison was stopped")
            progress.tick()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for reader in readers:
            reader.abort()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    found = Found()
    for number in sorted(futures):
        found.add(futures[number].result())
    progress.end()
    return found
