"""The base class of the operators."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, BaseOperator

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.hooks.connections import client_path
from airflow_pg_s3.task_errors import final_error, with_client_path, with_conn_ids
from airflow_pg_s3.telemetry.lineage import Movement, lineage
from airflow_pg_s3.telemetry.stages import StagedLog

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


class PgS3Operator(BaseOperator):
    """An operator that can be stopped, and whose exceptions tell Airflow whether to retry."""

    # Airflow copies tasks, and an event cannot be copied.
    shallow_copy_attrs: Sequence[str] = ("_cancel",)
    _movement: Movement | None = None
    console_url = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cancel = threading.Event()

    def on_kill(self) -> None:
        """Make `execute` undo its work and fail. Airflow gives it five seconds for that."""
        self._cancel.set()

    @contextlib.contextmanager
    def _final_errors(self) -> Iterator[StagedLog]:
        """Context manager, which gives core's log: log errors once; those that no retry can help end the task.

        :raises AirflowFailException: no retry can help.
        """
        log = StagedLog(self.log)
        try:
            yield log
        except PgS3Error as error:
            log.end_stage()
            raise final_error(error, self.log, self._named) from None
        finally:
            log.end_stage()

    def _named(self, message: str) -> str:
        """Let a message name the Airflow connections and settings that it speaks of."""
        message = with_client_path(message, client_path())
        return with_conn_ids(message, getattr(self, "postgres_conn_id", None), getattr(self, "aws_conn_id", None))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the datasets that the task has read and written; called by OpenLineage where it is installed."""
        return lineage(self._movement)

    def _report(self, context: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """Put the facts into the asset events of the operator's outlets; return them for XCom."""
        events = context.get("outlet_events")
        if events is not None:
            for outlet in self.outlets:
                if isinstance(outlet, Asset):
                    events[outlet].extra = facts
        return facts
