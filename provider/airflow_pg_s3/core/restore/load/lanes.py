"""A few threads that run tasks in the order of their dependencies, the largest first."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Generic, Protocol, TypeVar

_POLL_SECONDS = 0.05


class Resource(Protocol):
    """A resource that a lane owns, such as a session."""

    def abort(self) -> None:
        """Make the current work fail at once; called from another thread."""

    def close(self) -> None:
        """Release it."""


R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, kw_only=True)
class Task(Generic[R]):
    """A piece of work.

    :param key: identifies the task.
    :param size: bytes; of the tasks that are ready, the largest runs first.
    :param work: called with a lane's resource, on that lane's thread.
    :param after: keys of the tasks that must be done first.
    """

    key: Hashable
    size: int
    work: Callable[[R], None]
    after: Collection[Hashable] = ()


class Lanes(Generic[R]):
    """A fixed number of threads ("lanes"), each with a resource of its own.

    :param open_resource: called on each lane's thread.
    :param stop: set when a task or the caller fails, so that the other tasks end.
    """

    def __init__(self, count: int, open_resource: Callable[[], R], *, stop: threading.Event) -> None:
        self._count = count
        self._open_resource = open_resource
        self._stop = stop
        self._changed = threading.Condition()
        self._ready: list[tuple[int, int]] = []
        self._error: BaseException | None = None
        self._resources: list[R] = []

    def run(self, tasks: Sequence[Task[R]], *, poll: Callable[[], None]) -> None:
        """Run all tasks; when all threads have ended, raise the first error.

        :param poll: called every 50 ms on the caller's thread; if it raises, all tasks end.
        :raises graphlib.CycleError: tasks wait for each other; none has begun.
        """
        self._tasks = tasks
        numbers = {task.key: number for number, task in enumerate(tasks)}
        self._order = TopologicalSorter(
            {numbers[task.key]: [numbers[key] for key in task.after if key in numbers] for task in tasks}
        )
        self._order.prepare()
        threads = [
            threading.Thread(target=self._lane, name=f"lane {number}", daemon=True)
            for number in range(min(self._count, len(tasks)))
        ]
        started: list[threading.Thread] = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
            for thread in started:
                while thread.is_alive():
                    poll()
                    thread.join(_POLL_SECONDS)
        finally:
            self._end(started)
        if self._error is not None:
            raise self._error

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        if not any(thread.is_alive() for thread in threads):
            return
        with self._changed:
            self._abort()
        for thread in threads:
            thread.join()

    def _abort(self) -> None:
        self._stop.set()
        self._changed.notify_all()
        for resource in self._resources:
            resource.abort()

    def _lane(self) -> None:
        try:
            resource = self._open_resource()
            with self._changed:
                self._resources.append(resource)
            try:
                while (number := self._next()) is not None:
                    self._tasks[number].work(resource)
                    with self._changed:
                        self._order.done(number)
                        self._changed.notify_all()
            finally:
                resource.close()
        except BaseException as error:
            with self._changed:
                # Only the first error is kept: it makes the other tasks fail.
                if self._error is None and not self._stop.is_set():
                    self._error = error
                self._abort()

    def _next(self) -> int | None:
        """Return the number of the largest task that is ready; None if none is left."""
        with self._changed:
            while self._order.is_active() and not self._stop.is_set():
                for number in self._order.get_ready():
                    heapq.heappush(self._ready, (-self._tasks[number].size, number))
                if self._ready:
                    return heapq.heappop(self._ready)[1]
                self._changed.wait()
            return None
