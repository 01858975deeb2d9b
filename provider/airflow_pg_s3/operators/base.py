"""What the operators have in common."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, Asset, BaseOperator

from airflow_pg_s3.core.errors import DataConflict, InputError, PgS3Error


def final_error(error: PgS3Error, log: Any) -> Exception:
    """Say what went wrong, and return what to raise: without the chain of errors that led to it.

    Airflow shows the whole chain, under whose dozens of frames the sentence that says what to do would be lost.
    """
    log.error("%s", error)
    log.debug("how it came to that", exc_info=error)
    if not isinstance(error, InputError | DataConflict):
        return error
    final = AirflowFailException(str(error))
    for note in getattr(error, "__notes__", ()):
        final.add_note(note)
    return final


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
