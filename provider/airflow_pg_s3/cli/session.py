"""What a command is given."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from airflow_pg_s3.cli.connections import Connections
from airflow_pg_s3.cli.output import Output
from airflow_pg_s3.core.reporting import Log


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a command is given besides its arguments.

    :param out: where results go.
    :param cancel: set when it should stop.
    """

    connections: Connections
    out: Output
    log: Log
    cancel: threading.Event
