"""A real `airflow standalone`: scheduler, supervisor, task process, API, all in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from testkit.sandbox import environment_without, free_port

_ATTEMPTS = 5
DAGS = Path(__file__).parents[1] / "dags"


def wait_until(fact: Callable[[], Any], what: str, *, seconds: float = 180) -> Any:
    """Poll until `fact()` is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return found


class Standalone:
    """`airflow standalone` in a session of its own, with the DAGs that we ship.

    :param home: an empty folder.
    :param settings: environment variables.
    :param dags: further DAGs: file name → content.
    :param parallelism: number of tasks at a time.
    """

    def __init__(
        self,
        home: Path,
        settings: Mapping[str, str],
        *,
        dags: Mapping[str, str] | None = None,
        parallelism: int = 4,
    ) -> None:
        self.home = home
        self.tmp = home / "tmp"
        self.tmp.mkdir()
        shutil.copytree(DAGS, home / "dags")
        for name, content in (dags or {}).items():
            (home / "dags" / name).write_text(content)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._token: str | None = None
        self._log = (home / "standalone.log").open("wb")
        programs = Path(sys.executable).parent
        self._process = subprocess.Popen(
            [programs / "airflow", "standalone"],
            env=environment_without("AIRFLOW_", "AWS_", "PG", "PYTHONDONTWRITEBYTECODE")
            | {
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__API__HOST": "127.0.0.1",
                "AIRFLOW__API__PORT": str(self.port),
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
                "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__CORE__PARALLELISM": str(parallelism),
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
                "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
                "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
                "PATH": f"{programs}:{os.environ['PATH']}",  # standalone starts its parts as `airflow`
                "TMPDIR": str(self.tmp),
                **settings,
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Kill all its processes; stopping by itself would take half a minute, and leave children behind."""

        def all_are_killed() -> bool:
            pids = self.processes()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        wait_until(all_are_killed, "all processes have ended")
        self._process.wait()
        self._log.close()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send one request to the API; return the response, or raise HTTPError."""
        if self._token is None:
            with urllib.request.urlopen(f"{self.url}/auth/token") as answer:
                self._token = json.load(answer)["access_token"]
        request = urllib.request.Request(
            f"{self.url}/api/v2{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        # Airflow's SQLite may be locked for the moment by another of its processes: then it answers 500.
        for attempt in range(_ATTEMPTS):
            try:
                with urllib.request.urlopen(request) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 500 or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(1)

    def is_up(self) -> bool:
        assert self._process.poll() is None, "airflow standalone has ended"
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health") as answer:
                health = json.load(answer)
        except OSError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))

    def runs(self, dag_id: str) -> list[Any]:
        return list(self.call("GET", f"/dags/{dag_id}/dagRuns")["dag_runs"])

    def trigger(self, dag_id: str, **conf: Any) -> str:
        return str(
            self.call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
        )

    def end_of(self, dag_id: str, run_id: str, *, seconds: float = 180) -> str:
        def ended() -> Any:
            run = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
            return run if run["state"] in ("success", "failed") else None

        return str(wait_until(ended, f"the end of {dag_id} {run_id}", seconds=seconds)["state"])

    def task_log(self, dag_id: str, run_id: str, task_id: str) -> str:
        return json.dumps(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/1"))

    def log_with(self, text: str, *of_the_task: str) -> str:
        """Return the task's log once it holds `text`; its end may be written a little later than the state.

        Soon after the end of a run, Airflow's API now and then does not find the task, and answers 404.
        """

        def log() -> str | None:
            try:
                found = self.task_log(*of_the_task)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise
                return None
            return found if text in found else None

        return str(wait_until(log, f"{text} is in the log of {of_the_task}"))

    def processes(self, program: str | None = None) -> list[int]:
        """Return the pids of all processes of its session, and of those with `home` in their environment.

        Airflow's processes have AIRFLOW_HOME, unless their title has overwritten it; pg_dump has the workspace,
        which is below our TMPDIR. Zombies, which have no command line, are left out.
        """
        marker = f"={self.home}".encode()
        session = self._process.pid
        pids = []
        for entry in Path("/proc").iterdir():
            try:
                if (
                    entry.name.isdigit()
                    and (entry / "cmdline").read_bytes()
                    and (os.getsid(int(entry.name)) == session or marker in (entry / "environ").read_bytes())
                    and program in (None, (entry / "comm").read_text().strip())
                ):
                    pids.append(int(entry.name))
            except OSError:  # the process has ended meanwhile
                continue
        return pids

    def spool_folders(self) -> list[Path]:
        return [path for path in self.tmp.iterdir() if path.name.startswith("airflow-pg-s3-")]

    def log_tail(self) -> str:
        return (self.home / "standalone.log").read_text(errors="replace")[-4000:]
