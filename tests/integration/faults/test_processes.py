"""Processes and servers that die or hang at any moment: nothing is lost, nothing lies, nothing stays."""

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.faults.task import Task
from tests.integration.faults.verbs import VERBS, Verb
from tests.integration.faults.world import FILL, World
from tests.support.fault_tally import TALLY, each
from tests.support.sampling import SEED, TORTURE, combine, sample
from tests.support.waiting import wait_until

CASES = 12 if TORTURE else 1
WHILE_SECONDS = 0.7
# So that pg_restore is at work for a while, and has more than one thing to do: rows are not among it.
SLOW_VIEWS = """
create materialized view slow as select 1 as i from pg_sleep(0.5);
create materialized view as_slow as select 1 as i from pg_sleep(0.5);
"""
SESSIONS = """
select count(*) from pg_stat_activity
where application_name in ('airflow-provider-pg-s3', 'pg_dump', 'pg_restore')
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One of its own, as it will be restarted."""
    with Cluster(major=18) as running:
        yield running


@pytest.fixture(scope="module")
def world(cluster: Cluster, server: S3Server) -> Iterator[World]:
    made = World(cluster, server, FILL + SLOW_VIEWS)
    yield made
    made.close()


@dataclass
class Run:
    """A task at work."""

    verb: Verb
    task: Task

    @property
    def leader(self) -> int | None:
        """Pid of the program that is connected to the database, not of one that looks into the archive."""
        return next(iter(self.task.pids_of(self.verb.program, "--dbname=")), None)

    @property
    def worker(self) -> int | None:
        workers = self.task.pids_of(self.verb.program, "--dbname=")[1:]
        return workers[-1] if workers else None

    def session_of(self, application: str) -> int | None:
        query = (
            f"select pid from pg_stat_activity where application_name = '{application}' order by random() limit 1"
        )
        return int(self.verb.world.cluster.psql(query) or 0) or None

    def end_session(self, pid: int) -> None:
        self.verb.world.cluster.psql(f"select pg_terminate_backend({pid})")

    def signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.task.process.pid, number)


def send(number: signal.Signals, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def pause(pid: int) -> None:
    send(signal.SIGSTOP, pid)
    time.sleep(WHILE_SECONDS)
    send(signal.SIGCONT, pid)


def the_task(run: Run) -> int | None:
    return run.task.process.pid if run.task.is_running else None


# Whom it is to hit, None if there is none (any more); and what happens to them.
FAULTS: dict[str, tuple[Callable[[Run], int | None], Callable[[Run, int], object]]] = {
    "task and its group killed": (the_task, lambda run, _: run.signal_group(signal.SIGKILL)),
    "task alone killed": (the_task, lambda run, pid: send(signal.SIGKILL, pid)),
    "task and its group told to stop": (the_task, lambda run, _: run.signal_group(signal.SIGTERM)),
    "task stands still for a while": (the_task, lambda run, pid: pause(pid)),
    "leader killed": (lambda run: run.leader, lambda run, pid: send(signal.SIGKILL, pid)),
    "leader told to stop": (lambda run: run.leader, lambda run, pid: send(signal.SIGTERM, pid)),
    "leader stands still for a while": (lambda run: run.leader, lambda run, pid: pause(pid)),
    "worker killed": (lambda run: run.worker, lambda run, pid: send(signal.SIGKILL, pid)),
    "worker stands still for a while": (lambda run: run.worker, lambda run, pid: pause(pid)),
    "server crashes and recovers": (the_task, lambda run, _: run.verb.world.cluster.restart("immediate")),
    "session of a worker ended": (lambda run: run.session_of(run.verb.program), Run.end_session),
    "our session ended": (lambda run: run.session_of("airflow-provider-pg-s3"), Run.end_session),
}
KILLS_THE_TASK = {"task and its group killed", "task alone killed"}
HARMLESS = {f"{who} stands still for a while" for who in ("task", "leader", "worker")}
OF_THE_PROGRAM = {name for name in FAULTS if name.startswith(("leader", "worker", "session"))}


@pytest.fixture(scope="module")
def durations() -> dict[str, float]:
    """How long each verb takes when nothing goes wrong."""
    return {}


@pytest.mark.parametrize(("verb", "fault"), sample(combine(VERBS, FAULTS, name="any moment"), 4, "any moment"))
def test_hit_at_any_moment(
    world: World,
    new_live: Callable[[], str],
    durations: dict[str, float],
    tmp_path: Path,
    verb: str,
    fault: str,
) -> None:
    tried = VERBS[verb](world, new_live)

    aim, hit = FAULTS[fault]

    def run(arguments: dict[str, Any], moment: float | None) -> dict[str, Any]:
        spool = tmp_path / f"spool {time.monotonic_ns()}"
        spool.mkdir()
        target = None
        with Task(world, verb, spool_dir=spool, **arguments) as task:
            if moment is not None:
                running = Run(tried, task)
                time.sleep(moment)
                while task.is_running and (target := aim(running)) is None:
                    time.sleep(0.002)
                if target is not None:
                    hit(running, target)
            ended = task.end()
        # PostgreSQL notices the death of a client when it next writes to it, or reads from it.
        wait_until(lambda: world.cluster.psql(SESSIONS) == "0\n")
        return ended | {"was_hit": target is not None}

    def check(number: int) -> None:
        moment = random.Random(f"{SEED} {verb} {fault} {number}").uniform(0, longest)
        given = tried.prepare()
        ended = run(given, moment)
        TALLY.count(verb, fault, ended["end"] if ended["was_hit"] else "too late")
        hits.append(ended["was_hit"])
        case = f"{verb}: {fault} after {moment:.3f} s: {ended['end']}: {ended['text']}"
        allowed = {"success"} if fault in HARMLESS else {"success", "clear failure"}
        assert ended["end"] in allowed | ({"killed"} if fault in KILLS_THE_TASK else set()), case
        tried.check(given, ended["end"], case)

    if verb not in durations:
        clean = run(tried.prepare(), None)
        assert clean["end"] == "success", clean
        durations[verb] = clean["seconds"]
    # The program itself works for a part of the time alone.
    longest = durations[verb] * (0.5 if fault in OF_THE_PROGRAM else 0.95)
    hits: list[bool] = []
    each(itertools.takewhile(lambda number: number < CASES or not any(hits), itertools.count()), check)
