"""PgBouncer in front of a PostgreSQL server, from Debian's package."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Self

import psycopg
from psycopg.conninfo import make_conninfo

from testkit.postgres import Cluster
from testkit.sandbox import Sandbox, accepts_connections, free_port
from testkit.unprivileged_user import make_directory, server_user

# Debian installs it into /usr/sbin, which is not on every PATH.
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
CONFIGURATION = """
[databases]
* = host={cluster.host} port={cluster.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {home}/users
pool_mode = {pool_mode}
default_pool_size = {pool_size}
server_round_robin = {round_robin:d}
server_login_retry = 1
ignore_startup_parameters = extra_float_digits,options
"""


class PgBouncer:
    """A pooler on a free port of 127.0.0.1, for the cluster's superuser. Use as a `with` block."""

    host = "127.0.0.1"

    def __init__(
        self,
        cluster: Cluster,
        *,
        pool_mode: Literal["session", "transaction", "statement"],
        pool_size: int = 20,
        round_robin: bool = False,
    ) -> None:
        self._cluster = cluster
        self._settings = {"pool_mode": pool_mode, "pool_size": pool_size, "round_robin": round_robin}

    @staticmethod
    def available() -> str | None:
        """Return why it cannot be started here; None if it can."""
        return None if PROGRAM else "not found: pgbouncer (Debian's package of the same name)"

    def __enter__(self) -> Self:
        assert PROGRAM is not None, self.available()
        user = server_user()
        with ExitStack() as stack:
            sandbox = stack.enter_context(Sandbox(prefix="pgbouncer-", stop_signal=signal.SIGINT))
            home = make_directory(sandbox.path / "home", user=user)
            self.port = free_port()
            _write(home / "users", f'"{self._cluster.user}" "{self._cluster.password}"\n', user)
            text = CONFIGURATION.format(cluster=self._cluster, home=home, port=self.port, **self._settings)
            _write(home / "pgbouncer.ini", text, user)
            sandbox.start("pgbouncer", [PROGRAM, str(home / "pgbouncer.ini")], user=user)
            sandbox.wait_until_ready("pgbouncer", lambda: accepts_connections(self.port))
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @property
    def keywords(self) -> dict[str, str]:
        """See `Cluster.keywords`."""
        return self._cluster.keywords | {"host": self.host, "port": str(self.port)}

    def connect(self, dbname: str = "postgres") -> psycopg.Connection:
        """Open an autocommit connection."""
        return psycopg.connect(make_conninfo(**self.keywords, dbname=dbname), autocommit=True)

    def airflow_connection(self, dbname: str = "postgres") -> str:
        """Return JSON for an AIRFLOW_CONN_* variable."""
        return json.dumps(json.loads(self._cluster.airflow_connection(dbname)) | {"port": self.port})


def _write(path: Path, text: str, user: int | None) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
    if user is not None:
        os.chown(path, user, user)
