"""The base class of the operators."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow.providers.common.compat.sdk import Asset, BaseOperator

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.hooks.connections import client_path
from airflow_pg_s3.task_errors import final_error, with_client_path, with_conn_ids


class PgS3Operator(BaseOperator):
    """An operator that can be stopped, and whose exceptions tell Airflow whether to retry."""

    # Airflow copies tasks, and an event cannot be copied.
    shallow_copy_attrs: Sequence[str] = ("_cancel",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cancel = threading.Event()

    def on_kill(self) -> None:
        """Make `execute` undo its work and fail. Airflow gives it five seconds for that."""
        self._cancel.set()

    @contextlib.contextmanager
    def _final_errors(self) -> Iterator[None]:
        """Context manager: log errors once, and raise `AirflowFailException` for those that no retry can help."""
        try:
            yield
        except PgS3Error as error:
            raise final_error(error, self.log, self._named) from None

    def _named(self, message: str) -> str:
        """Let a message name the Airflow connections and settings that it speaks of."""
        message = with_client_path(message, client_path())
        return with_conn_ids(message, getattr(self, "postgres_conn_id", None), getattr(self, "aws_conn_id", None))

    def _report(self, context: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """Put the facts into the asset events of the operator's outlets; return them for XCom."""
        events = context.get("outlet_events")
        if events is not None:
            for outlet in self.outlets:
                if isinstance(outlet, Asset):
                    events[outlet].extra = facts
        return facts
