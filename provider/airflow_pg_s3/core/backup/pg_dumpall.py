"""pg_dumpall, which writes the globals of a server: roles, memberships, settings of roles, and tablespaces."""

from __future__ import annotations

import os
from pathlib import Path

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.connection import ConnectionParameters

_PG_DUMPALL = "pg_dumpall"


def check_tools(tools: ClientTools) -> None:
    """Make sure that globals can be dumped.

    :raises InputError: pg_dumpall is not where pg_dump is.
    """
    if not os.access(tools.path(_PG_DUMPALL), os.X_OK):
        raise InputError(
            f"include_globals=True takes {_PG_DUMPALL}, which is not in {tools.folder} beside pg_dump "
            f"{tools.version}: install the whole package postgresql-client-{tools.major}, or leave it out"
        )


def dump_command(tools: ClientTools, source: ConnectionParameters, encoding: str, file: Path) -> list[str]:
    """Command that writes the globals of a server into a file. It takes no superuser, as it reads no passwords."""
    return [
        tools.path(_PG_DUMPALL),
        "--globals-only",
        "--no-role-passwords",
        "--no-sync",
        "--no-password",
        f"--encoding={encoding}",
        f"--file={file}",
        # The database to connect to; else it would be postgres, which may be closed to the user.
        f"--database={source.dbname_argument()}",
    ]
