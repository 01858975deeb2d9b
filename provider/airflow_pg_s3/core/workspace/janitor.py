"""Kills and removes what a workspace leaves behind, whatever happened to the task that owned it.

The janitor is a process of its own (``python -I -S janitor.py FOLDER``) in its own session, so that a SIGKILL of
the task or of its whole process group does not reach it. It waits for the end of its standard input, a pipe whose
other end only the task has. The pipe is closed when the task is done with the workspace, and when the task dies in
any way. Then the janitor kills every process with the folder's name in its environment, and deletes the folder. A
PostgreSQL server in the workspace is asked to shut down first, as only then it frees its shared memory.

Imports nothing but the standard library, to start quickly and to depend on nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

VARIABLE = "AIRFLOW_PG_S3_WORKSPACE"
_PATIENCE_SECONDS = 30.0
_SERVER_PATIENCE_SECONDS = 5.0


def processes_of(folder: str) -> list[int]:
    """Return the pids of the processes that were started in the workspace `folder`."""
    return [pid for pid in _pids() if _has(pid, VARIABLE, folder) or _serves(pid, folder)]


def processes_with(variable: str, value: str) -> list[int]:
    """Return the pids of processes started with `variable` set to `value`, and of the processes they forked."""
    return [pid for pid in _pids() if _has(pid, variable, value)]


def server_option(folder: str) -> str:
    """Return the option by which a PostgreSQL server's processes are known to belong to the workspace `folder`.

    Server processes overwrite their environment with their titles, and root may not be allowed to read other
    users' environments. The titles, which anybody may read, begin with the cluster's name.
    """
    return f"--cluster_name={os.path.basename(folder)}"


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _has(pid: int, variable: str, value: str) -> bool:
    return f"{variable}={value}".encode() in _read(pid, "environ").split(b"\0")


def _serves(pid: int, folder: str) -> bool:
    title = f"postgres: {os.path.basename(folder)}: ".encode()
    return _is_server(pid, folder) or _read(pid, "cmdline").startswith(title)


def _is_server(pid: int, folder: str) -> bool:
    return server_option(folder).encode() in _read(pid, "cmdline").split(b"\0")


def _read(pid: int, name: str) -> bytes:
    # The process may have ended meanwhile, or be another user's.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()
    return b""


def _end_servers(folder: str) -> None:
    """Ask servers for an immediate shutdown, and wait until their processes have ended."""
    deadline = time.monotonic() + _SERVER_PATIENCE_SECONDS
    servers = [pid for pid in _pids() if _is_server(pid, folder)]
    for pid in servers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    while any(_is_server(pid, folder) for pid in servers) and time.monotonic() < deadline:
        time.sleep(0.01)


def clean_up(folder: str) -> None:
    """Kill the workspace's processes and delete its folder."""
    _end_servers(folder)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    # Repeated until no process is left, as one may have forked while the list was made. And then once more, as a
    # process that is just starting has no visible environment for a moment.
    scans_left = 2
    while scans_left and time.monotonic() < deadline:
        pids = processes_of(folder)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        scans_left = 2 if pids else scans_left - 1
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Wait for the owner's end, then clean up after it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    clean_up(sys.argv[1])


if __name__ == "__main__":
    main()
