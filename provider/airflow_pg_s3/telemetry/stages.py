"""Groups of lines in a task's log, which Airflow's page folds."""

from __future__ import annotations

from typing import Any


class StagedLog:
    """The log of a task, in which each stage of the work is a group.

    :param log: Airflow's task log.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._is_open = False

    def info(self, message: str, /, *args: Any) -> None:
        """Log what happens."""
        self._log.info(message, *args)

    def warning(self, message: str, /, *args: Any) -> None:
        """Log what somebody should check."""
        self._log.warning(message, *args)

    def begin_stage(self, name: str) -> None:
        """Begin a group, and end the one before."""
        self.end_stage()
        self._log.info("::group::%s", name)
        self._is_open = True

    def end_stage(self) -> None:
        """End the group, if one is open: what follows is not folded away."""
        if self._is_open:
            self._log.info("::endgroup::")
        self._is_open = False
