"""What S3 has said, kept for some seconds; and threads of our own that ask it.

Airflow's API server shares 40 threads among all of its routes. A store that does not answer must not take them, so
that it is asked in threads of this module, each question once however many people ask it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from airflow_pg_s3.core.errors import StorageError

KEPT_SECONDS = 15.0
PATIENCE_SECONDS = 20.0
_QUESTIONS_AT_ONCE = 4
_MOST_WAITING = 32
_MOST_KEPT = 200


class StillWaiting(StorageError):
    """S3 has not answered in time; the question goes on, and its answer will be kept."""


@dataclass
class _Answer:
    """An answer, or an error, that there is or will be.

    :param done_at: by the monotonic clock; None while it is waited for.
    """

    future: Future[Any]
    done_at: float | None = None

    @property
    def age_seconds(self) -> float:
        return 0.0 if self.done_at is None else time.monotonic() - self.done_at


class Answers:
    """Asks, and remembers for a while.

    :param kept_seconds: for how long.
    :param patience_seconds: how long one request waits for an answer.
    """

    def __init__(self, *, kept_seconds: float = KEPT_SECONDS, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._kept_seconds = kept_seconds
        self._patience_seconds = patience_seconds
        self._threads = ThreadPoolExecutor(_QUESTIONS_AT_ONCE, thread_name_prefix="pg-s3-page")
        self._kept: dict[tuple[Any, ...], _Answer] = {}

    async def get(self, ask: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
        """Return ``ask(*arguments)`` and its age in seconds. To be called on one event loop.

        :raises StillWaiting: there is no answer yet.
        """
        answer = self._answer(ask, arguments)
        waiting = asyncio.wrap_future(answer.future)
        try:
            value = await asyncio.wait_for(asyncio.shield(waiting), self._patience_seconds)
        except TimeoutError:
            # Nobody else may look at what comes of it.
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise StillWaiting(
                f"S3 has not answered within {self._patience_seconds:.0f} s: it is still being asked, so look "
                "again in a moment"
            ) from None
        return value, answer.age_seconds

    def _answer(self, ask: Callable[..., Any], arguments: tuple[Any, ...]) -> _Answer:
        key = (ask.__name__, *arguments)
        self._forget()
        if key not in self._kept:
            if sum(answer.done_at is None for answer in self._kept.values()) >= _MOST_WAITING:
                raise StillWaiting("S3 is slow, and too much is asked of it already: look again in a moment")
            answer = self._kept[key] = _Answer(self._threads.submit(ask, *arguments))
            answer.future.add_done_callback(lambda _: setattr(answer, "done_at", time.monotonic()))
        return self._kept[key]

    def _forget(self) -> None:
        for key, answer in list(self._kept.items()):
            is_one_too_many = answer.done_at is not None and len(self._kept) >= _MOST_KEPT
            if is_one_too_many or answer.age_seconds > self._kept_seconds:
                del self._kept[key]
