"""Runs shipped DAGs with the `airflow` command, in a home of their own."""

import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testkit.sandbox import environment_without

AIRFLOW = Path(sys.executable).with_name("airflow")
# 2026-01-31T05:00:00.000000Z [info     ] what was said   [airflow.task.operators.airflow_pg_s3… more=…
OPERATOR_LINE = re.compile(r"^\S+ \[\w+ *\] (?P<said>.*?) +\[airflow\.task\.operators\.airflow_pg_s3\.")
ERROR_LINE = re.compile(r"^\S+ \[(error|critical) *\] |^[\w.]+(Error|Exception|Conflict): ")


class RunFailed(Exception):
    """An `airflow` command failed."""

    def __init__(self, command: str, log: Path) -> None:
        super().__init__(f"this failed: {command}\nthe whole log: {log}")


@dataclass(frozen=True)
class Command:
    """One `airflow dags test`."""

    dag_id: str
    arguments: tuple[str, ...]

    @property
    def shown(self) -> str:
        """As one would type it."""
        return shlex.join(["airflow", *self.arguments])


class Airflow:
    """An Airflow home with SQLite, made ready on creation.

    :param settings: environment variables: connections, and the defaults of the DAGs' params.
    """

    def __init__(self, *, home: Path, dags: Path, settings: Mapping[str, str]) -> None:
        self._home = home
        self._environment = environment_without("AIRFLOW_", "AWS_", "PG", "PYTHONDONTWRITEBYTECODE") | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **settings,
        }
        home.mkdir(parents=True)
        self._execute(("db", "migrate"), log=home / "migrate.log", on_line=None)

    def command(self, dag_id: str, params: Mapping[str, Any]) -> Command:
        """The command that runs a DAG with these params, as the trigger form would."""
        conf = ("--conf", json.dumps(params)) if params else ()
        return Command(dag_id, ("dags", "test", dag_id, *conf))

    def run(self, command: Command, *, on_line: Callable[[str], None]) -> dict[str, Any]:
        """Run a DAG to its end; task id → what the task returned. `on_line` gets what our operators log."""
        log = self._home / f"{command.dag_id}.log"
        self._execute(command.arguments, log=log, on_line=on_line)
        with sqlite3.connect(self._home / "airflow.db") as database:
            ((state,),) = database.execute("SELECT state FROM dag_run WHERE dag_id = ?", [command.dag_id])
            if state != "success":
                raise RunFailed(command.shown, log)
            rows = database.execute(
                "SELECT task_id, value FROM xcom WHERE dag_id = ? AND key = 'return_value'", [command.dag_id]
            )
            return {task_id: json.loads(value) for task_id, value in rows}

    def _execute(self, arguments: tuple[str, ...], *, log: Path, on_line: Callable[[str], None] | None) -> None:
        with (
            log.open("w") as whole,
            subprocess.Popen(
                [AIRFLOW, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                whole.write(line)
                said = OPERATOR_LINE.match(line)
                if said and said["said"].startswith("::"):  # the groups of Airflow's page
                    continue
                if on_line is not None and said:
                    on_line(said["said"])
                elif ERROR_LINE.match(line):
                    (on_line or print)(line.rstrip())
        if process.returncode:
            raise RunFailed(shlex.join(["airflow", *arguments]), log)
