"""Advisory locks that say that a backup is alive."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.postgres.server import advisory_key
from airflow_pg_s3.core.repository.backup_id import time_of

_Connection = psycopg.Connection[tuple[Any, ...]]
# An entry for each session that has it, and whether it is ours.
_LOCK = """
select pid = pg_backend_pid() from pg_locks where locktype = 'advisory' and granted and objsubid = 1
and classid = %(high)s::bigint::oid and objid = %(low)s::bigint::oid
"""
# Sessions that may be of the pg_dump of a backup.
_MAY_DUMP = """
select pid from pg_stat_activity where application_name = %(pg_dump)s and datname = current_database()
and pid <> pg_backend_pid() and coalesce(backend_start >= %(begun)s, true)
"""
_PATIENCE_SECONDS = 5.0


def lock_key(backup_id: str) -> int:
    """Key of the advisory lock that says that a backup is being made."""
    return advisory_key(backup_id)


def hold_lock(connection: _Connection, backup_id: str) -> None:
    """Say on the source server that `backup_id` is alive, for as long as `connection` is.

    :raises PgS3Error: as `confirm_lock`.
    """
    connection.execute("select pg_advisory_lock(%s)", [lock_key(backup_id)])
    confirm_lock(connection, backup_id)


def confirm_lock(connection: _Connection, backup_id: str) -> None:
    """Make sure that the lock was held until now.

    :raises PgS3Error: the session is gone or was replaced; another run may have removed what was stored.
    """
    try:
        is_held = (True,) in _holders(connection, backup_id)
    except psycopg.OperationalError as error:
        raise PgS3Error(f"the connection that marks this backup as alive was lost: {error}") from error
    if not is_held:
        raise PgS3Error(
            "the lock that marks this backup as alive was lost, as what is in front of the server has changed its "
            "session: connect to the server itself"
        )


def is_alive(connection: _Connection, backup_id: str, pg_dump: str) -> bool:
    """True if a session holds the lock of `backup_id`, or may be its pg_dump's.

    :param pg_dump: the name of its application.
    """
    # Read, not tried: a pooled session of ours may be the one that holds it.
    if _holders(connection, backup_id):
        return True
    # The lock may be gone because its session was cut off, which its backup is about to notice. A pg_dump that was
    # killed leaves sessions for a moment.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    values = {"pg_dump": pg_dump, "begun": time_of(backup_id)}
    while connection.execute(_MAY_DUMP, values).fetchone():
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


def _holders(connection: _Connection, backup_id: str) -> list[tuple[Any, ...]]:
    high, low = divmod(lock_key(backup_id) % (1 << 64), 1 << 32)
    return connection.execute(_LOCK, {"high": high, "low": low}).fetchall()
