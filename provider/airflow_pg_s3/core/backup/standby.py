"""A parallel dump of a standby, which servers before November 2026 can get wrong.

A snapshot that a standby has exported lacks transactions that were running, if these had many subtransactions. The
jobs of pg_dump then read wrong rows, and leave marks behind that keep the standby's own rows wrong for good.
Source: "Fix snapshot export and import", https://www.postgresql.org/docs/release/15.20/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from airflow_pg_s3.core.postgres.client_options import Given
from airflow_pg_s3.core.reporting import Log

# The first minor release of each major that has the fix. Older majors never get it; newer ones have had it since
# their first release or first minor.
_MENDED = {14: 25, 15: 20, 16: 16, 17: 12, 18: 7}


def warn_of_snapshots(
    connection: psycopg.Connection[tuple[Any, ...]], jobs: int, given: Sequence[Given], log: Log
) -> None:
    """Warn if a dump would use a snapshot that a standby may have exported wrongly.

    :param jobs: of pg_dump; for one alone none is exported.
    :param given: further options of pg_dump.
    """
    if (jobs == 1 and "snapshot" not in dict(given)) or not exports_wrong_snapshots(connection):
        return
    major, minor = divmod(connection.info.server_version, 10000)
    first = f"{major}.{_MENDED[major]}" if major in _MENDED else "a major version that is still maintained"
    log.warning(
        "the server is a standby of PostgreSQL %d.%d, where a dump by several jobs can be wrong, and damage the "
        "standby's own data: upgrade it to %s, or use jobs=1 without --snapshot",
        major,
        minor,
        first,
    )


def exports_wrong_snapshots(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """True if a server is a standby with that fault."""
    if has_right_snapshots(connection.info.server_version):
        return False
    return connection.execute("select pg_is_in_recovery()").fetchone() == (True,)


def has_right_snapshots(version: int) -> bool:
    """True if a standby exports snapshots rightly.

    :param version: the server's ``server_version_num``.
    """
    major, minor = divmod(version, 10000)
    return major > max(_MENDED) or minor >= _MENDED.get(major, minor + 1)
