"""Gauges for Airflow's metrics; docs/monitoring.md lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import Stats

GAUGES = {
    "backup": ("raw_bytes", "stored_bytes", "new_stored_bytes", "ratio", "rows", "duration_seconds"),
    "restore": ("raw_bytes", "rows", "duration_seconds"),
    "verification": ("rows", "duration_seconds", "restore_seconds"),
    "newest": ("age_seconds",),
    "newest_verified": ("age_seconds",),
}
"""What is measured → the facts that become gauges: ``pg_s3.backup.raw_bytes``, …."""


def measure(what: str, facts: Mapping[str, Any]) -> None:
    """Set the gauges of a task that is done, with its database as their tag.

    :param facts: what the task returns; facts that are None or missing are left out.
    """
    stored = facts.get("stored_bytes")
    values = {"ratio": facts["raw_bytes"] / stored} if stored else {}
    values |= facts
    for name in GAUGES[what]:
        if values.get(name) is not None:
            Stats.gauge(f"pg_s3.{what}.{name}", values[name], tags={"database": facts["database"]})
