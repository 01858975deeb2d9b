"""A temporary directory and the processes that run in it: both are gone when the block ends.

This holds even if this Python process is killed by SIGKILL. A shell waits on a pipe whose other end only this
process has. The kernel closes the pipe in every case, and the shell then cleans up. (PR_SET_PDEATHSIG would not
do: it fires when the starting *thread* ends, and its preexec_fn can deadlock in threaded programs.)
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

CLEANER = """
read -r _
for f in "$1"/*.pid; do [ -f "$f" ] && kill -s "$2" "$(cat "$f")" 2>/dev/null; done
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    alive=; for f in "$1"/*.pid; do [ -f "$f" ] && kill -0 "$(cat "$f")" 2>/dev/null && alive=1; done
    [ -z "$alive" ] && break
    sleep 0.1
done
for f in "$1"/*.pid; do [ -f "$f" ] && kill -s KILL "$(cat "$f")" 2>/dev/null; done
rm -rf "$1"
"""
STOP_SECONDS = 15.0
LOWEST_SERVER_PORT = 10_000
CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
MEMORY = Path("/dev/shm")
ENOUGH_MEMORY_BYTES = 12 << 30


class Sandbox:
    """A directory, traversable but not readable by other users, and its processes, which `stop_signal` ends.

    :cvar default_dir: where it is made unless a `base_dir` is given; None for the system's temporary directory.
    """

    default_dir: ClassVar[Path | None] = None

    def __init__(
        self, *, prefix: str, base_dir: Path | None = None, stop_signal: signal.Signals = signal.SIGTERM
    ) -> None:
        self._prefix = prefix
        self._base_dir = base_dir
        self._stop_signal = stop_signal
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        base_dir = self._base_dir or self.default_dir
        self.path = Path(tempfile.mkdtemp(prefix=self._prefix, dir=base_dir)).absolute()
        try:
            self.path.chmod(0o711)
            arguments = [str(self.path), self._stop_signal.name.removeprefix("SIG")]
            self._cleaner = subprocess.Popen(
                ["sh", "-c", CLEANER, "lab-cleaner", *arguments],
                stdin=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._processes)):
            self.stop(name)
        # A line is sent, as closing the pipe may not end it: a process forked from this one may have it open.
        self._cleaner.communicate(b"\n")

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a server in its own session; its output goes to `<name>.log` in the sandbox."""
        with open(self.log_path(name), "ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.path,
                env=env,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        self._processes[name] = process
        (self.path / f"{name}.pid").write_text(str(process.pid))
        return process

    def stop(self, name: str, *, with_signal: signal.Signals | None = None) -> None:
        """Stop one process and wait for it; kill it if it does not end in time."""
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self._stop_signal if with_signal is None else with_signal)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        (self.path / f"{name}.pid").unlink(missing_ok=True)

    def wait_until_ready(self, name: str, is_ready: Callable[[], bool], *, seconds: float = 180.0) -> None:
        """Poll until `is_ready()`; raise with the end of the log if the process ends or the time is over."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            status = self._processes[name].poll()
            if status is not None or time.monotonic() > deadline:
                fate = f"not ready in {seconds:g} s" if status is None else f"ended with status {status}"
                tail = self.log_path(name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name}: {fate}; the end of its log:\n{tail}")
            time.sleep(0.02)

    def log_path(self, name: str) -> Path:
        return self.path / f"{name}.log"


def memory_dir() -> Path | None:
    """A directory whose files are in memory, where servers take half the time; None where memory is scarce."""
    if not MEMORY.is_dir():
        return None
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available_bytes = int(facts["MemAvailable"].split()[0]) << 10
    enough = min(available_bytes, shutil.disk_usage(MEMORY).free) >= ENOUGH_MEMORY_BYTES
    return MEMORY if enough else None


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on at this moment.

    It is below the kernel's range of client ports, so that no client gets it before the server listens.
    """
    first_of_clients = int(CLIENT_PORTS.read_text().split()[0])
    below = range(LOWEST_SERVER_PORT, max(first_of_clients, LOWEST_SERVER_PORT))
    for port in [*random.sample(below, min(len(below), 100)), 0]:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise OSError("no free port on 127.0.0.1")


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def environment_without(*prefixes: str) -> dict[str, str]:
    """Return os.environ without variables of these prefixes: PG* would redirect clients, PYTHON* break tools."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
