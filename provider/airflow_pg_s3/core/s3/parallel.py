"""The same small request for many things, a few at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from airflow_pg_s3.core.errors import Cancelled

AT_ONCE = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    work: Callable[[Item], Result], items: Iterable[Item], *, cancel: threading.Event, ahead: int = 64
) -> Iterator[Result]:
    """Do the work for each item, eight at once, and yield the results in the order of the items.

    :param ahead: how many items are begun before the first of them is asked for.
    :raises Cancelled: told to stop; what was begun has ended.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="request")
    try:
        while some := list(islice(remaining, ahead)):
            if cancel.is_set():
                raise Cancelled("the task was told to stop")
            yield from pool.map(work, some)
    finally:
        pool.shutdown(cancel_futures=True)
