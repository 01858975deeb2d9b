"""Keywords of a connection that the client programs' libpq does not know.

They come with a libpq that may be older than psycopg's. It takes no notice of a variable that it does not know,
such as that of ``require_auth``, and refuses a whole service file for a keyword that it does not know, such as
``sslkeylogfile``. No version tells, as a libpq can be newer than its programs: so they are asked.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from psycopg.conninfo import make_conninfo

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_tools
from airflow_pg_s3.core.postgres.connection import ConnectionParameters

_KNOWN_TO_ALL = {"host", "port", "user", "password", "dbname"}
# Leads nowhere; before it finds out, libpq has looked at all keywords.
_NOWHERE = {"host": "/dev/null"}


def check_keywords(params: ConnectionParameters, folder: Path, version: str) -> None:
    """Make sure that client programs will connect as `params` say.

    :param folder: where they are.
    :param version: what they say they are, such as ``16.14``.
    :raises InputError: they do not know one of the keywords; the message names both.
    """
    asked = sorted(params.keywords.keys() - _KNOWN_TO_ALL)
    if not asked:
        return
    # Not pg_restore, which reads its archive first.
    program = str(folder / "pg_dump")
    match = re.search(r'invalid connection option "(\w+)"', _said(program, dict.fromkeys(asked, "")))
    unknown = match[1] if match else None
    # To an older one a file of that name, without which it trusts any server; a newer one refuses the pair.
    if params.keywords.get("sslrootcert") == "system" and "sslrootcert" not in _said(
        program, {"sslrootcert": "system", "sslmode": "disable"}
    ):
        unknown = unknown or "sslrootcert=system"
    if unknown:
        raise InputError(
            f"the connection to {params.endpoint} has {unknown}, which the client programs {version} in {folder} "
            "do not know: upgrade them, or the libpq that they use, or remove it from the connection"
        )


def _said(program: str, keywords: Mapping[str, str]) -> str:
    return subprocess.run(
        [program, "--no-password", f"--dbname={make_conninfo(**keywords, **_NOWHERE)}"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=client_tools.environment(),
        check=False,
    ).stderr.decode(errors="replace")
