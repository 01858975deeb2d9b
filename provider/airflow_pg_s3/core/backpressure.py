"""Pauses pg_dump while S3 is slower than it."""

from __future__ import annotations

from airflow_pg_s3.core.process import ClientProgram

_DECAY = 0.95


class Backpressure:
    """Keeps the spool within its limit by stopping pg_dump before it is full.

    pg_dump writes on between two looks at the spool, and a busy machine may make us look late: so it is stopped
    when three quarters of the limit are taken, or less if it has just written much from one look to the next.

    :param limit: bytes that the spool may take.
    """

    def __init__(self, program: ClientProgram, limit: int) -> None:
        self._program = program
        self._limit = limit
        self._used = 0
        self._growth = 0.0
        self._paused = False
        self.pauses = 0

    def apply(self, used: int) -> None:
        """Stop pg_dump or let it go on, given what the spool takes now. Called after each look."""
        self._growth = max(used - self._used, self._growth * _DECAY)
        self._used = used
        reserve = max(2 * self._growth, self._limit / 4)
        if not self._paused and used + reserve > self._limit:
            self._program.pause()
            self._paused = True
            self.pauses += 1
        elif self._paused and used < self._limit * 3 // 8:
            self._program.resume()
            self._paused = False
