"""What a command is given."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from airflow_pg_s3.cli.connections import Connections
from airflow_pg_s3.cli.log import CommandLog
from airflow_pg_s3.cli.output import Output


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a command is given besides its arguments.

    :param out: where results go.
    :param wording: changes core's sentences into this program's words.
    :param cancel: set when it should stop.
    """

    connections: Connections
    out: Output
    wording: Callable[[str], str]
    log: CommandLog
    cancel: threading.Event
