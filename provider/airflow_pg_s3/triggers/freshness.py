"""The trigger that waits until the newest backup is young enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_pg_s3.core.errors import InputError, PgS3Error
from airflow_pg_s3.core.repository.freshness import Freshness, look
from airflow_pg_s3.hooks.repositories import open_repository


class BackupFreshnessTrigger(BaseTrigger):
    """Fires once: when the newest backup is young enough, at the deadline, or when a check fails.

    Its event has ``status`` (``fresh``, ``late``, ``refused`` for errors that no retry can help, or ``failed``),
    ``message`` and ``facts`` (about the newest backup that counts, or None).

    :param max_age_seconds: maximum age of the newest backup.
    :param poke_interval: seconds between two checks, and before the first one.
    :param deadline: time to give up, ISO 8601 with a time zone; it stays the same in another triggerer.
    :param silent_fail: continue after an error of S3.
    """

    def __init__(
        self,
        *,
        repository: str,
        database: str,
        max_age_seconds: float,
        verified: bool,
        aws_conn_id: str | None,
        s3_extra_args: Mapping[str, Any] | None = None,
        poke_interval: float,
        deadline: str,
        silent_fail: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.repository = repository
        self.database = database
        self.max_age_seconds = max_age_seconds
        self.verified = verified
        self.aws_conn_id = aws_conn_id
        self.s3_extra_args = s3_extra_args
        self.poke_interval = poke_interval
        self.deadline = deadline
        self.silent_fail = silent_fail

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and arguments to create this trigger in another process."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "repository": self.repository,
            "database": self.database,
            "max_age_seconds": self.max_age_seconds,
            "verified": self.verified,
            "aws_conn_id": self.aws_conn_id,
            "s3_extra_args": self.s3_extra_args,
            "poke_interval": self.poke_interval,
            "deadline": self.deadline,
            "silent_fail": self.silent_fail,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Check after each interval; yield the event."""
        deadline = datetime.fromisoformat(self.deadline)
        # A check blocks, and so needs a thread: asgiref's, as connections are fetched through the triggerer's own
        # loop, but not its shared thread, where other triggers would wait for this one.
        check = sync_to_async(self._check, thread_sensitive=False)
        while True:
            remaining = (deadline - datetime.now(UTC)).total_seconds()
            await asyncio.sleep(max(0.0, min(self.poke_interval, remaining)))
            try:
                found = await check()
            except PgS3Error as error:
                if isinstance(error, InputError) or not self.silent_fail:
                    status = "refused" if isinstance(error, InputError) else "failed"
                    yield _event(status, str(error), None)
                    return
                message, facts = str(error), None
            else:
                message, facts = found.message, found.facts
                if found.is_fresh:
                    yield _event("fresh", message, facts)
                    return
            self.log.info("%s", message)
            if datetime.now(UTC) >= deadline:
                yield _event("late", message, facts)
                return

    def _check(self) -> Freshness:
        repository, _ = open_repository(self.repository, self.aws_conn_id, self.s3_extra_args)
        return look(
            repository,
            database=self.database,
            max_age=timedelta(seconds=self.max_age_seconds),
            verified=self.verified,
            log=self.log,
        )


def _event(status: str, message: str, facts: dict[str, Any] | None) -> TriggerEvent:
    payload = {"status": status, "message": message, "facts": facts}
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
