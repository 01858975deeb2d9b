"""A verb at work in another process, which may be hit by anything."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from testkit.task_process import told
from tests.integration.conftest import processes_in
from tests.integration.faults.world import World
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[3]


class Task:
    """Runs one verb. Use as a `with` block, after which nothing of it is alive.

    :param spool_dir: of this task alone.
    :param open_files: how many files it may have open beside those it has at the start.
    :param held: begin only when `go` is called.
    """

    def __init__(
        self,
        world: World,
        verb: str,
        arguments: Mapping[str, Any],
        *,
        spool_dir: Path,
        repository: str | None = None,
        open_files: int | None = None,
        held: bool = False,
    ) -> None:
        self._is_held = held
        self.spool_dir = spool_dir
        plain = {name: _plain(value) for name, value in arguments.items()} | {"spool_dir": str(spool_dir)}
        self._told = told(
            verb,
            plain,
            world.server,
            repository=repository,
            open_files=open_files,
            patience_seconds=PATIENCE_SECONDS,
        )

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "testkit.task_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(self._told + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ready\n"
        if not self._is_held:
            self.go()
        return self

    def go(self) -> None:
        """Begin, if it was held."""
        assert self.process.stdin
        self.process.stdin.close()
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def pids_of(self, program: str, argument: str) -> list[int]:
        """Pids of a client program that has an argument beginning so, the leader first."""
        parents = {}
        for pid in processes_in(self.spool_dir):
            try:
                status = dict(
                    line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                )
                arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except OSError:  # gone meanwhile
                continue
            if status["Name"] == program and any(given.startswith(argument) for given in arguments):
                parents[pid] = int(status["PPid"])
        return sorted(parents, key=lambda pid: (parents[pid] in parents, pid))

    def end(self) -> dict[str, Any]:
        """Wait for the end, and for what must not outlive it; how it ended."""
        assert self.process.stdout
        told = self.process.stdout.read()
        self.process.wait(PATIENCE_SECONDS)
        assert not told or told.startswith("{"), f"it hangs:\n{told}"
        seconds = time.monotonic() - self._began
        wait_until(lambda: not processes_in(self.spool_dir) and not list(self.spool_dir.iterdir()))
        ended: dict[str, Any] = json.loads(told) if told else {"end": "killed", "text": ""}
        return ended | {"seconds": seconds}


def _plain(value: Any) -> Any:
    if isinstance(value, ConnectionParameters):
        return {"database": value.database, "keywords": dict(value.keywords)}
    return value
