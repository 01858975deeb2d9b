"""Ends and removes whatever a workspace leaves behind, whatever happened to the task that owned it.

Runs as a process of its own (``python -I -S janitor.py FOLDER``), in its own session, so that a SIGKILL of the
task or of its whole process group does not reach it. It waits for the end of standard input, a pipe whose other
end only the task holds: it closes when the task is done with the workspace, and when the task dies in any way.
Then it kills every process that carries the folder's name in its environment, and deletes the folder. A PostgreSQL
server that works there is asked to end first, as only so it gives its shared memory back.

Imports nothing but the standard library, as it must start quickly and survive alone.
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
    """Pids of the processes that were started in the workspace `folder`."""
    return [pid for pid in _pids() if _has(pid, VARIABLE, folder) or _serves(pid, folder)]


def processes_with(variable: str, value: str) -> list[int]:
    """Pids of the processes that were started with `variable` in their environment, and of what they forked."""
    return [pid for pid in _pids() if _has(pid, variable, value)]


def server_option(folder: str) -> str:
    """The option by which a PostgreSQL server's processes are known to belong to the workspace `folder`.

    They write their titles over their environment, and root may not be allowed to read other users' environments.
    The titles, which anybody may read, begin with the cluster's name.
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
    # Gone meanwhile, or another user's.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()
    return b""


def _end_servers(folder: str) -> None:
    """Ask servers for their immediate shutdown, and wait until they have ended their processes."""
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
    # Again until none is left: a process may have forked while the list was made. And then once more: one that is
    # just being started shows no environment for a moment.
    looks_left = 2
    while looks_left and time.monotonic() < deadline:
        pids = processes_of(folder)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        looks_left = 2 if pids else looks_left - 1
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
