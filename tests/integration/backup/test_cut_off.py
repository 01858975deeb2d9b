"""Who is silent is cut off on the way to the server, and any session may end: ours are kept, or missed at once."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.core.postgres import databases, heartbeat
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, parameters
from airflow_pg_s3.core.postgres.server import inspect
from airflow_pg_s3.core.restore.load.copy_session import LoadingOptions, LoadingSession
from airflow_pg_s3.core.restore.replace_target import SwapTarget
from airflow_pg_s3.core.verify.comparison.copy_reader import CopyReader
from airflow_pg_s3.core.verify.scratch_database import ScratchDatabase
from airflow_pg_s3.hooks import connections as resolving
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.postgres import Cluster
from testkit.tcp_proxy import TcpProxy
from tests.integration.conftest import only_on
from tests.support.waiting import wait_until

IDLE_SECONDS = 1.5
# Longer than that, in statements that are shorter.
NAPS = 5
NAP = "pg_sleep(0.5)"
FILL = "create table t as select i from generate_series(1, 1000) as i"
END_OURS = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where datname = 'postgres' and application_name = 'airflow-provider-pg-s3'"
)

WAITING = "select count(*) from pg_stat_activity where application_name = 'pg_dump' and wait_event_type = 'Lock'"


@pytest.fixture
def proxy(pg16: Cluster) -> Iterator[TcpProxy]:
    with TcpProxy(pg16, idle_seconds=IDLE_SECONDS) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much quicker than usual as what cuts off."""
    monkeypatch.setattr(heartbeat, "_PING_SECONDS", 0.2)


@pytest.fixture
def source(pg16: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg16, FILL, name="source")


@only_on("moto")
def test_a_backup_whose_upload_takes_longer_succeeds(
    proxy: TcpProxy, source: str, back_up, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = resolving.s3_client

    def slow_client(*given: object) -> object:
        client, arguments = original(*given)
        slow = functools.partial(time.sleep, NAPS * 0.5)
        client.meta.events.register(
            "before-send.s3.PutObject", lambda request, **_: slow() if "/pack-" in request.url else None
        )
        return client, arguments

    monkeypatch.setattr(resolving, "s3_client", slow_client)
    assert back_up(proxy, source)["rows"] == 1000


@only_on("moto")
def test_a_replace_whose_load_takes_longer_succeeds(
    pg16: Cluster, proxy: TcpProxy, source: str, back_up, restore
) -> None:
    backup = back_up(pg16, source)
    done = restore(
        proxy,
        source,
        backup=backup["uri"],
        if_exists="replace",
        keep_previous=False,
        post_restore_sql=[f"select {NAP}"] * NAPS,
    )
    assert done["rows"] == 1000


@only_on("moto")
def test_a_verification_that_takes_longer_keeps_its_lock(
    pg16: Cluster, proxy: TcpProxy, source: str, back_up, connections, spool_dir: Path
) -> None:
    backup = back_up(pg16, source)
    connections.set("pg_scratch", proxy.airflow_connection())
    verify = PgS3VerifyOperator(
        task_id="verify",
        backup=backup["uri"],
        postgres_conn_id="pg_scratch",
        aws_conn_id="aws",
        checks=[
            *[f"select {NAP} is not null"] * NAPS,
            "select count(*) = 1 from pg_locks where locktype = 'advisory'",
        ],
        spool_dir=str(spool_dir),
    )
    assert verify.execute({})["outcome"] == "verified"


@pytest.mark.parametrize("kind", ["loading session", "reader"])
def test_a_session_that_was_silent_for_long_is_exchanged_before_its_next_use(
    pg16: Cluster, source: str, kind: str
) -> None:
    with TcpProxy(pg16, idle_seconds=0.5) as proxy:
        params = parameters(database=source, keywords=proxy.keywords)
        session: LoadingSession | CopyReader = (
            LoadingSession(params, LoadingOptions(encoding="UTF8"))
            if kind == "loading session"
            else reader_of(params)
        )
        assert session.connection.execute("show intervalstyle").fetchone() == ("postgres",)
        wait_until(lambda: proxy.cuts)
        assert session.connection.execute("show intervalstyle").fetchone() == ("postgres",)
        # Not within a transaction, which would be gone.
        with session.connection.transaction():
            ours = session.connection
            time.sleep(0.3)
            assert session.connection is ours
        session.close()


def reader_of(params: ConnectionParameters) -> CopyReader:
    dump = SimpleNamespace(options=[], lc_monetary=None)
    manifest = SimpleNamespace(server=SimpleNamespace(encoding="UTF8", codec="utf-8"), dump=dump)
    return CopyReader(manifest, params, tools=SimpleNamespace(path=lambda _: "/nowhere/psql"), env={})


# -- a session that is lost -----------------------------------------------------------------------------------


@only_on("moto")
def test_a_backup_ends_when_its_lock_is_lost_and_its_operator_can_begin_again(
    pg16: Cluster, source: str, connections, repository: str, spool_dir: Path, processes, leftovers
) -> None:
    connections.source(pg16, source)
    operator = PgS3BackupOperator(
        task_id="back_up",
        repository=repository,
        postgres_conn_id="pg_source",
        aws_conn_id="aws",
        spool_dir=str(spool_dir),
    )
    ours = f"from pg_stat_activity where datname = '{source}' and application_name = 'airflow-provider-pg-s3'"
    with ThreadPoolExecutor(1) as pool:
        with pg16.connect(source) as blocker, blocker.transaction():
            blocker.execute("lock table t in access exclusive mode")
            running = pool.submit(operator.execute, {})
            wait_until(lambda: int(pg16.psql(WAITING)) or running.done())
            # Another timer runs until the server has acknowledged the last query.
            wait_until(
                lambda: {(kind, when <= 60) for kind, when in timers_of(processes())} == {("keepalive", True)}
            )
            pg16.psql(f"select pg_terminate_backend(pid) {ours}")
            # While pg_dump waits.
            with pytest.raises(ServerError, match="the connection that marks this backup as alive was lost"):
                running.result()
        assert leftovers() == []
        assert operator.execute({})["rows"] == 1000


def timers_of(pids: list[int]) -> list[tuple[str, float]]:
    """The timers of some processes' TCP connections, and in how many seconds they are due."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
    kinds = {"00": "none", "01": "retransmission", "02": "keepalive"}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        (kinds.get(kind, kind), int(when, 16) / 100)
        for (kind, _, when) in (row[5].partition(":") for row in rows if row[9] in inodes)
    ]


@only_on("moto")
def test_a_replace_whose_lock_is_lost_says_so_and_leaves_nothing(
    pg16: Cluster, source: str, back_up, restore
) -> None:
    backup = back_up(pg16, source)
    with pytest.raises(ServerError, match=f"that keeps other restores from replacing '{source}' was lost"):
        restore(
            pg16,
            source,
            backup=backup["uri"],
            if_exists="replace",
            post_restore_sql=[END_OURS, "select pg_sleep(1)"],
        )
    assert databases_like(pg16, source) == [source]


@only_on("moto")
def test_a_database_is_dropped_although_the_session_that_made_it_is_lost(
    pg16: Cluster, source: str, new_name, back_up, restore
) -> None:
    backup, target = back_up(pg16, source), new_name(pg16)
    with pytest.raises(ServerError, match="division by zero"):
        restore(pg16, target, backup=backup["uri"], post_restore_sql=[END_OURS, "select 1 / 0"])
    assert databases_like(pg16, target) == []


@pytest.mark.parametrize("what", ["verification", "replace"])
def test_a_database_that_is_being_filled_is_not_dropped_when_its_lock_is_lost(
    pg16: Cluster, source: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(heartbeat, "_PING_SECONDS", 3600)
    monkeypatch.setattr(databases, "_PATIENCE_SECONDS", 0)
    params = parameters(database=source, keywords=pg16.keywords)
    with params.connect() as connection:
        like = inspect(connection, params).server
    cancel, log = threading.Event(), SimpleNamespace(info=print, warning=print)

    def begin() -> ScratchDatabase | SwapTarget:
        if what == "verification":
            return ScratchDatabase(params, source, like, is_throwaway=False, cancel=cancel, log=log).__enter__()
        replacement = SwapTarget(params, jobs=1, keep_previous=False, cancel=cancel, log=log).__enter__()
        replacement.check()
        replacement.prepare(like)
        return replacement

    first = begin()
    pg16.psql(END_OURS)
    with first.params.connect():
        second = begin()
        assert databases_like(pg16, source) == sorted([source, first.params.database, second.params.database])
        second.__exit__(Exception, Exception(), None)
    begin().__exit__(Exception, Exception(), None)
    assert databases_like(pg16, source) == [source]
    first.__exit__(Exception, Exception(), None)


def databases_like(cluster: Cluster, name: str) -> list[str]:
    return cluster.psql(f"select datname from pg_database where datname like '{name}%' order by 1").splitlines()
