"""Several tasks at once: each does its own work, or fails clean; none takes anything from another."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from testkit.fault_proxy import FaultProxy, Request
from testkit.postgres import Cluster
from tests.integration.faults.task import Task
from tests.integration.faults.verbs import WHOLE, Backup
from tests.integration.faults.world import DATABASE, FILL, World
from tests.support.fault_tally import TALLY, each
from tests.support.sampling import sample

AT_ONCE = 5
JOBS = 2
# pg_dump has one connection more than jobs, and we have one that marks the backup as alive.
CONNECTIONS_OF_A_TASK = JOBS + 2
MIB_OF_A_TASK = 256
SAMPLE = 2


def test_backups_of_one_database_at_once_are_all_whole(world: World) -> None:
    prefix = world.copy()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: world.back_up(prefix), range(8)))
    assert len({backup.key for backup in made}) == 8
    assert len(list(world.manifests(prefix))) == 9
    TALLY.count("backup", "others of the same database at once", "success")
    TALLY.assert_none("false completes", world.false_completes(prefix), "at once")
    TALLY.assert_none("leftovers", world.leftovers(prefix), "at once")


def test_a_prune_at_any_moment_of_a_backup_leaves_it_alone(world: World, proxy: FaultProxy) -> None:
    """It deletes the older of two earlier backups, and would take an hour without a write for an orphan."""
    client = proxy.client()

    def pruned_at(index: int, prefix: str) -> Callable[[Request], None]:
        def rule(request: Request) -> None:
            if request.index == index:
                world.prune(prefix, orphan_age=timedelta(hours=1))

        return rule

    proxy.reset()
    world.back_up(world.copy(), client)

    def check(index: int) -> None:
        prefix = world.copy()
        world.back_up(prefix)
        older = min(stored.manifest.backup_id for stored in world.manifests(prefix))
        proxy.reset(pruned_at(index, prefix))
        made = world.back_up(prefix, client)
        TALLY.count("backup", "a prune meanwhile", "success")
        assert older not in {stored.manifest.backup_id for stored in world.manifests(prefix)}
        assert made.manifest.backup_id in {stored.manifest.backup_id for stored in world.manifests(prefix)}
        TALLY.assert_none("false completes", world.false_completes(prefix), f"a prune at request {index}")

    each(sample(range(len(proxy.requests)), SAMPLE, "prune during a backup"), check)


def test_a_restore_whose_backup_is_pruned_at_any_moment_is_whole_or_fails_clean(
    world: World, proxy: FaultProxy, new_live: Callable[[], str]
) -> None:
    client = proxy.client()
    proxy.reset()
    world.replace(new_live(), world.backup.uri, client)

    def check(index: int) -> None:
        prefix, live = world.copy(), new_live()
        world.back_up(prefix)  # which is newer, so the other goes

        def rule(request: Request) -> None:
            if request.index == index:
                world.prune(prefix, retention=RetentionPolicy(keep_last=1))

        proxy.reset(rule)
        end = "success"
        try:
            world.replace(live, world.uri(prefix), client)
        except PgS3Error:
            end = "clear failure"
        TALLY.count("restore", "its backup pruned meanwhile", end)
        case = f"pruned at request {index}: {end}"
        assert len(list(world.manifests(prefix))) == 1, case
        assert world.tables(live) == (WHOLE if end == "success" else ["before"]), case
        TALLY.assert_none("leftovers", set(world.databases_like(f"{live}%")) - {live}, case)

    each(sample(range(len(proxy.requests)), SAMPLE, "prune during a restore"), check)


# -- mapped tasks on one worker -----------------------------------------------------------------------------------


@pytest.fixture
def tight(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server with as many connections as the parameter says, beside those reserved for superusers."""
    with Cluster(major=18, settings={"max_connections": request.param + 3}) as running:
        yield running


class Connections(threading.Thread):
    """Watches how many there are at once, for the time of a `with` block."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self._connection = cluster.connect()
        self._end = threading.Event()
        self.most = 0

    def run(self) -> None:
        query = "select count(*) from pg_stat_activity where backend_type = 'client backend'"
        while not self._end.wait(0.01):
            ((count,),) = self._connection.execute(query).fetchall()
            self.most = max(self.most, count - 1)

    def __enter__(self) -> "Connections":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()
        self._connection.close()


def run_at_once(world: World, cluster: Cluster, tmp_path: Path) -> tuple[list[dict], list[str], int]:
    """Back up as many databases at once as there are mapped tasks; how they ended, where to, connections."""
    cluster.create_database(DATABASE)
    cluster.psql(FILL, DATABASE)
    names = [f"tenant {number}" for number in range(AT_ONCE)]
    for name in names:
        cluster.create_database(name, template=DATABASE)
    prefix = f"tenants {time.monotonic_ns()}"
    spools = (tmp_path / f"spool {number}" for number in itertools.count())
    world_of_tenants = Backup(world, lambda: "")
    with ExitStack() as stack:
        watched = stack.enter_context(Connections(cluster))
        tasks = []
        for name in names:
            spool = next(spools)
            spool.mkdir()
            source = world.params(name)
            source = type(source)(database=name, keywords={**source.keywords, "port": str(cluster.port),
                                                           "password": cluster.password})  # fmt: skip
            given = world_of_tenants.prepare()["arguments"] | {"source": source, "jobs": JOBS}
            task = Task(
                world, "backup", given, spool_dir=spool, held=True, repository=f"s3://{world.bucket}/{prefix}"
            )
            tasks.append(stack.enter_context(task))
        for task in tasks:
            task.go()
        ends = [task.end() for task in tasks]
    return ends, [key for key in world.stored(prefix)], watched.most


@pytest.mark.parametrize("tight", [AT_ONCE * CONNECTIONS_OF_A_TASK + 1], indirect=True)
def test_mapped_backups_share_a_worker_within_what_is_documented(
    world: World, tight: Cluster, tmp_path: Path
) -> None:
    ends, stored, connections = run_at_once(world, tight, tmp_path)
    assert [end["end"] for end in ends] == ["success"] * AT_ONCE, ends
    assert AT_ONCE < connections <= AT_ONCE * CONNECTIONS_OF_A_TASK
    assert max(end["peak_kib"] for end in ends) < MIB_OF_A_TASK << 10
    assert len([key for key in stored if key.endswith(".json")]) == AT_ONCE
    TALLY.count("backup", "others on the worker", "success")
    print(f"\n{AT_ONCE} at once: {connections} connections, "
          f"{max(end['peak_kib'] for end in ends) >> 10} MiB at most in a task")  # fmt: skip


@pytest.mark.parametrize("tight", [AT_ONCE + 2], indirect=True)
def test_mapped_backups_that_find_too_few_connections_fail_clean(
    world: World, tight: Cluster, tmp_path: Path
) -> None:
    ends, stored, _ = run_at_once(world, tight, tmp_path)
    failed = [end for end in ends if end["end"] == "clear failure"]
    assert failed
    assert all("slots" in end["text"] or "too many clients" in end["text"] for end in failed), failed
    assert {end["end"] for end in ends} <= {"success", "clear failure"}
    succeeded = {end["text"].rpartition("/")[2].removesuffix(".json") for end in ends if end["end"] == "success"}
    ids = {key.split("/")[1].removesuffix(".json") for key in stored}
    TALLY.count("backup", "too few connections", "clear failure")
    TALLY.assert_none("leftovers", ids - succeeded, "too few connections")
