"""The state that the steps of one restore share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.workspace.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class RestoreContext:
    """The state that the steps of one restore share.

    :param cancel: set from any thread to stop the restore.
    :param stop: set when a step fails, so that downloads end.
    :param warnings: a sentence for each difference from the source.
    """

    request: RestoreRequest
    workspace: Workspace
    cancel: threading.Event
    log: Log
    stop: threading.Event = field(default_factory=threading.Event)
    warnings: list[str] = field(default_factory=list)

    def warn(self, sentence: str) -> None:
        """Log a warning, and keep it for the result."""
        self.warnings.append(sentence)
        self.log.warning("%s", sentence)
