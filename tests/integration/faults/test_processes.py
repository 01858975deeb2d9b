"""Processes and servers that die or hang at any moment: nothing is lost, nothing lies, nothing stays."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.postgres import Cluster
from tests.integration.faults.task import Task, wait_until
from tests.integration.faults.verbs import VERBS, Verb
from tests.integration.faults.world import World
from tests.tally import SEED, TALLY, TORTURE, each

CASES = 12 if TORTURE else 1
WHILE_SECONDS = 0.7
SESSIONS = """
select count(*) from pg_stat_activity
where application_name in ('airflow-provider-pg-s3', 'pg_dump', 'pg_restore')
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One of its own, as it will be restarted."""
    with Cluster(major=18) as running:
        yield running


@dataclass
class Run:
    """A task at work."""

    verb: Verb
    task: Task

    @property
    def leader(self) -> int | None:
        return next(iter(self.task.pids_of(self.verb.program)), None)

    @property
    def worker(self) -> int | None:
        workers = self.task.pids_of(self.verb.program)[1:]
        return workers[-1] if workers else None

    def end_session(self, application: str) -> None:
        self.verb.world.cluster.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            f"where application_name = '{application}' order by random() limit 1"
        )


def send(number: signal.Signals, pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def pause(pid: int | None) -> None:
    send(signal.SIGSTOP, pid)
    time.sleep(WHILE_SECONDS)
    send(signal.SIGCONT, pid)


def signal_group(number: signal.Signals, run: Run) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.task.process.pid, number)


FAULTS: dict[str, Callable[[Run], object]] = {
    "task and its group killed": lambda run: signal_group(signal.SIGKILL, run),
    "task alone killed": lambda run: send(signal.SIGKILL, run.task.process.pid),
    "task and its group told to stop": lambda run: signal_group(signal.SIGTERM, run),
    "task stands still for a while": lambda run: pause(run.task.process.pid),
    "leader killed": lambda run: send(signal.SIGKILL, run.leader),
    "leader told to stop": lambda run: send(signal.SIGTERM, run.leader),
    "worker killed": lambda run: send(signal.SIGKILL, run.worker),
    "worker stands still for a while": lambda run: pause(run.worker),
    "server crashes and recovers": lambda run: run.verb.world.cluster.restart("immediate"),
    "session of a worker ended": lambda run: run.end_session(run.verb.program),
    "our session ended": lambda run: run.end_session("airflow-provider-pg-s3"),
}
KILLS_THE_TASK = {"task and its group killed", "task alone killed"}
HARMLESS = {"task stands still for a while", "worker stands still for a while"}
OF_THE_PROGRAM = {name for name in FAULTS if name.startswith(("leader", "worker", "session"))}


@pytest.fixture(scope="module")
def durations() -> dict[str, float]:
    """How long each verb takes when nothing goes wrong."""
    return {}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", VERBS)
def test_hit_at_any_moment(
    world: World,
    new_live: Callable[[], str],
    durations: dict[str, float],
    tmp_path: Path,
    verb: str,
    fault: str,
) -> None:
    tried = VERBS[verb](world, new_live)

    def run(arguments: dict[str, Any], moment: float | None) -> dict[str, Any]:
        spool = tmp_path / f"spool {time.monotonic_ns()}"
        spool.mkdir()
        with Task(world, verb, spool_dir=spool, **arguments) as task:
            if moment is not None:
                running = Run(tried, task)
                while fault in OF_THE_PROGRAM and task.is_running and running.leader is None:
                    time.sleep(0.002)
                time.sleep(moment)
                FAULTS[fault](running)
            ended = task.end()
        # PostgreSQL notices the death of a client when it next writes to it, or reads from it.
        wait_until(lambda: world.cluster.psql(SESSIONS) == "0\n")
        return ended

    def check(number: int) -> None:
        moment = random.Random(f"{SEED} {verb} {fault} {number}").uniform(0, longest)
        given = tried.prepare()
        ended = run(given, moment)
        TALLY.count(verb, fault, ended["end"])
        case = f"{verb}: {fault} after {moment:.3f} s: {ended['end']}: {ended['text']}"
        allowed = {"success"} if fault in HARMLESS else {"success", "clear failure"}
        assert ended["end"] in allowed | ({"killed"} if fault in KILLS_THE_TASK else set()), case
        tried.check(given, ended["end"], case)

    if verb not in durations:
        clean = run(tried.prepare(), None)
        assert clean["end"] == "success", clean
        durations[verb] = clean["seconds"]
    # The program itself works for a part of the time alone.
    longest = durations[verb] * (0.3 if fault in OF_THE_PROGRAM else 1.05)
    each(range(CASES), check)
