"""Connection keywords that the client programs' libpq does not know.

The programs' libpq may be older than psycopg's. It ignores environment variables that it does not know, such as
that of ``require_auth``, and refuses a whole service file because of one unknown keyword, such as
``sslkeylogfile``. The programs' version does not show this, as their libpq can be newer. So a program is run to
find out.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from psycopg.conninfo import make_conninfo

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.postgres.connection import ConnectionParameters

_KNOWN_TO_ALL = {"host", "port", "user", "password", "dbname"}
# An address where no server can be. libpq checks all keywords before it connects.
_NOWHERE = {"host": "/dev/null"}


def check_keywords(params: ConnectionParameters, folder: Path, version: str) -> None:
    """Check that client programs know all keywords of a connection.

    :param folder: the programs' folder.
    :param version: the programs' version, such as ``16.14``.
    :raises InputError: they do not know a keyword; the message names both.
    """
    asked = sorted(params.keywords.keys() - _KNOWN_TO_ALL)
    if not asked:
        return
    # pg_dump, as pg_restore reads its archive before it connects.
    program = str(folder / "pg_dump")
    match = re.search(r'invalid connection option "(\w+)"', _stderr_of(program, dict.fromkeys(asked, "")))
    unknown = match[1] if match else None
    # An older libpq takes "system" for a file name, and without that file trusts any server. A newer one refuses
    # the combination with sslmode=disable.
    if params.keywords.get("sslrootcert") == "system" and "sslrootcert" not in _stderr_of(
        program, {"sslrootcert": "system", "sslmode": "disable"}
    ):
        unknown = unknown or "sslrootcert=system"
    if unknown:
        raise InputError(
            f"the connection to {params.endpoint} has {unknown}, which the client programs {version} in {folder} "
            "do not know: upgrade them, or the libpq that they use, or remove it from the connection"
        )


def _stderr_of(program: str, keywords: Mapping[str, str]) -> str:
    return subprocess.run(
        [program, "--no-password", f"--dbname={make_conninfo(**keywords, **_NOWHERE)}"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=client_versions.environment(),
        check=False,
    ).stderr.decode(errors="replace")
