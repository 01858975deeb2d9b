"""What the operators have in common."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow.providers.common.compat.sdk import Asset, BaseOperator

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.task_errors import final_error


class PgS3Operator(BaseOperator):
    """An operator whose work can be stopped, and whose errors say whether trying again makes sense."""

    # Airflow copies tasks, and an event cannot be copied.
    shallow_copy_attrs: Sequence[str] = ("_cancel",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cancel = threading.Event()

    def on_kill(self) -> None:
        """Tell the work to stop; `execute` then undoes it and fails. Airflow leaves it five seconds for that."""
        self._cancel.set()

    @contextlib.contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        """Say errors first and last in the log; turn those that no retry can mend into Airflow's for these."""
        try:
            yield
        except PgS3Error as error:
            raise final_error(error, self.log) from None

    def _report(self, context: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """Put the facts on the events of the operator's asset outlets; return them for XCom."""
        events = context.get("outlet_events")
        if events is not None:
            for outlet in self.outlets:
                if isinstance(outlet, Asset):
                    events[outlet].extra = facts
        return facts
