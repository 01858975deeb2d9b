"""Work on a few threads at a time: the largest pieces first, each as soon as what it needs is done."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from airflow_pg_s3.core.errors import PgS3Error

_POLL_SECONDS = 0.05


class Resource(Protocol):
    """What a lane works with, such as a session."""

    def abort(self) -> None:
        """Make whatever is under way fail at once; called from another thread."""

    def close(self) -> None:
        """Give it back."""


R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, kw_only=True)
class Task(Generic[R]):
    """A piece of work.

    :param key: names it.
    :param size: bytes; of what can be done, the largest is done first.
    :param work: called with the resource of a lane, on a thread of that lane.
    :param after: keys of the tasks that must be done before.
    """

    key: Hashable
    size: int
    work: Callable[[R], None]
    after: Collection[Hashable] = ()


class Lanes(Generic[R]):
    """So many threads, each with a resource of its own.

    :param open_resource: called on each lane's thread.
    :param stop: set when a task fails, or the caller does, so that the others end.
    """

    def __init__(self, count: int, open_resource: Callable[[], R], *, stop: threading.Event) -> None:
        self._count = count
        self._open_resource = open_resource
        self._stop = stop
        self._changed = threading.Condition()
        self._ready: list[tuple[int, int, Task[R]]] = []
        self._waiting: dict[Hashable, tuple[Task[R], set[Hashable]]] = {}
        self._numbers = itertools.count()
        self._left = 0
        self._error: BaseException | None = None
        self._resources: list[R] = []

    def run(self, tasks: Sequence[Task[R]], *, look: Callable[[], None]) -> None:
        """Do all tasks; raise the first error, once nothing runs any more.

        :param look: called again and again on the caller's thread; what it raises ends all.
        :raises PgS3Error: tasks wait for one another.
        """
        self._left = len(tasks)
        keys = {task.key for task in tasks}
        for task in tasks:
            needed = keys.intersection(task.after)
            if needed:
                self._waiting[task.key] = (task, needed)
            else:
                self._push(task)
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
                    look()
                    thread.join(_POLL_SECONDS)
        finally:
            self._end(started)
        if self._error is not None:
            raise self._error
        if self._left:
            raise PgS3Error(f"nothing can be done first of {sorted(map(str, self._waiting))}")

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        if not any(thread.is_alive() for thread in threads):
            return
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
            for resource in self._resources:
                resource.abort()
        for thread in threads:
            thread.join()

    def _lane(self) -> None:
        try:
            resource = self._open_resource()
            with self._changed:
                self._resources.append(resource)
            try:
                while (task := self._next()) is not None:
                    task.work(resource)
                    self._done(task)
            finally:
                resource.close()
        except BaseException as error:
            with self._changed:
                # The others fail because of the first.
                if self._error is None and not self._stop.is_set():
                    self._error = error
                self._stop.set()
                self._changed.notify_all()
                for other in self._resources:
                    other.abort()

    def _next(self) -> Task[R] | None:
        with self._changed:
            # Without anything at work, nothing will become ready.
            while not self._ready and not self._stop.is_set() and self._left > len(self._waiting):
                self._changed.wait()
            return None if self._stop.is_set() or not self._ready else heapq.heappop(self._ready)[2]

    def _done(self, task: Task[R]) -> None:
        with self._changed:
            self._left -= 1
            for key, (waiting, needed) in list(self._waiting.items()):
                needed.discard(task.key)
                if not needed:
                    del self._waiting[key]
                    self._push(waiting)
            self._changed.notify_all()

    def _push(self, task: Task[R]) -> None:
        heapq.heappush(self._ready, (-task.size, next(self._numbers), task))
