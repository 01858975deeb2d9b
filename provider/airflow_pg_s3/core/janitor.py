"""Ends and removes whatever a workspace leaves behind, whatever happened to the task that owned it.

Runs as a process of its own (``python -I -S janitor.py FOLDER``), in its own session, so that a SIGKILL of the
task or of its whole process group does not reach it. It waits for the end of standard input, whose other end
only the task holds: it closes when the task is done with the workspace, and when the task dies in any way.
Then it kills every process that carries the folder's name in its environment, and deletes the folder.

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


def processes_of(folder: str) -> list[int]:
    """Pids of this user's processes that were started in the workspace `folder`."""
    marker = f"{VARIABLE}={folder}".encode()
    pids = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        # Gone meanwhile, or another user's.
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if marker in file.read().split(b"\0"):
                pids.append(int(name))
    return pids


def clean_up(folder: str) -> None:
    """Kill the workspace's processes and delete its folder."""
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
    while sys.stdin.buffer.read(1):
        pass
    clean_up(sys.argv[1])


if __name__ == "__main__":
    main()
