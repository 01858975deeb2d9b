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
from tests.integration.faults.tally import SEED, TALLY, TORTURE, each
from tests.integration.faults.task import Task, wait_until
from tests.integration.faults.world import World

CASES = 12 if TORTURE else 1
PROGRAM = {"backup": "pg_dump", "restore": "pg_restore", "verification": "pg_restore"}
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

    world: World
    verb: str
    task: Task

    @property
    def leader(self) -> int | None:
        return next(iter(self.task.pids_of(PROGRAM[self.verb])), None)

    @property
    def worker(self) -> int | None:
        workers = self.task.pids_of(PROGRAM[self.verb])[1:]
        return workers[-1] if workers else None

    def end_session(self, application: str) -> None:
        self.world.cluster.psql(
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
    "server crashes and recovers": lambda run: run.world.cluster.restart("immediate"),
    "session of a worker ended": lambda run: run.end_session(PROGRAM[run.verb]),
    "our session ended": lambda run: run.end_session("airflow-provider-pg-s3"),
}
KILLS_THE_TASK = {"task and its group killed", "task alone killed"}
HARMLESS = {"task stands still for a while", "worker stands still for a while"}
OF_THE_PROGRAM = {name for name in FAULTS if name.startswith(("leader", "worker", "session"))}

pytestmark = pytest.mark.parametrize("fault", FAULTS)


@pytest.fixture(scope="module")
def durations() -> dict[str, float]:
    """How long each verb takes when nothing goes wrong."""
    return {}


@pytest.fixture
def hit(
    world: World, durations: dict[str, float], tmp_path: Path, fault: str
) -> Callable[[str, Callable[[], dict[str, Any]], Callable[[dict[str, Any], str], None]], None]:
    """(verb, () → arguments of a new task, check of its end): hits tasks at random moments."""

    def run(verb: str, arguments: dict[str, Any], moment: float | None) -> dict[str, Any]:
        spool = tmp_path / f"spool {time.monotonic_ns()}"
        spool.mkdir()
        with Task(world, verb, spool_dir=spool, **arguments) as task:
            if moment is not None:
                running = Run(world, verb, task)
                while fault in OF_THE_PROGRAM and task.is_running and running.leader is None:
                    time.sleep(0.002)
                time.sleep(moment)
                FAULTS[fault](running)
            ended = task.end()
        # PostgreSQL notices the death of a client when it next writes to it, or reads from it.
        wait_until(lambda: world.cluster.psql(SESSIONS) == "0\n")
        return ended

    def all_of(verb: str, prepare: Callable[[], dict[str, Any]], check: Callable) -> None:
        if verb not in durations:
            clean = run(verb, prepare(), None)
            assert clean["end"] == "success", clean
            durations[verb] = clean["seconds"]
        # The program itself works for a part of the time alone.
        longest = durations[verb] * (0.3 if fault in OF_THE_PROGRAM else 1.05)

        def one(number: int) -> None:
            moment = random.Random(f"{SEED} {verb} {fault} {number}").uniform(0, longest)
            case = f"{verb}: {fault} after {moment:.3f} s"
            arguments = prepare()
            ended = run(verb, arguments, moment)
            TALLY.count(verb, fault, ended["end"])
            case += f": {ended['end']}: {ended['text']}"
            allowed = {"success"} if fault in HARMLESS else {"success", "clear failure"}
            assert ended["end"] in allowed | ({"killed"} if fault in KILLS_THE_TASK else set()), case
            check(arguments, ended["end"], case)

        each(range(CASES), one)

    return all_of


def test_a_backup(world: World, hit: Callable) -> None:
    def prepare() -> dict[str, Any]:
        repository = f"s3://{world.bucket}/{world.copy()}"
        return {"repository": repository, "arguments": world.backup_arguments() | {"jobs": 2}}

    def check(given: dict[str, Any], end: str, case: str) -> None:
        prefix = given["repository"].rpartition("/")[2]
        made = len(list(world.manifests(prefix))) - 1
        TALLY.assert_none("false completes", world.false_completes(prefix), case)
        TALLY.assert_none("lost backups", ["the earlier one"] if made < (end == "success") else [], case)
        TALLY.assert_none("false completes", ["after a failure"] if made and end == "clear failure" else [], case)
        if end != "success":
            world.back_up(prefix)
        TALLY.assert_none("leftovers", world.leftovers(prefix), case)

    hit("backup", prepare, check)


def test_a_restore(world: World, new_live: Callable[[], str], hit: Callable) -> None:
    def prepare() -> dict[str, Any]:
        return {"arguments": world.replace_arguments(new_live(), world.backup.uri) | {"jobs": 2}}

    def check(given: dict[str, Any], end: str, case: str) -> None:
        live = given["arguments"]["target"].database
        whole = ["large", "small"]
        assert world.tables(live) in ([whole] if end == "success" else [["before"], whole]), case
        if end != "success":
            world.replace(live, world.backup.uri)
        assert world.tables(live) == whole, case
        assert world.cluster.psql("select count(*) from large", live) == "250000\n", case
        TALLY.assert_none("leftovers", set(world.databases_like(f"{live}%")) - {live}, case)

    hit("restore", prepare, check)


def test_a_verification(world: World, hit: Callable) -> None:
    def prepare() -> dict[str, Any]:
        return {"arguments": world.verify_arguments(world.uri(world.copy())) | {"jobs": 2}}

    def check(given: dict[str, Any], end: str, case: str) -> None:
        uri = given["arguments"]["backup"]
        recorded = world.evidence(uri)
        outcomes = [found.outcome for found in recorded.verifications] if recorded else []
        # What happens to processes says nothing of the backup.
        assert "failed" not in outcomes, case
        assert world.verify(uri).verification.outcome == "verified", case
        TALLY.assert_none("leftovers", world.databases_like("%__verify_%"), case)

    hit("verification", prepare, check)
