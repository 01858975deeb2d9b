"""PgBouncer in front of a server: a pool of transactions is refused, and left as it is; one of sessions serves."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.backup import advisory_lock
from airflow_pg_s3.core.backup.advisory_lock import hold_lock, is_alive
from airflow_pg_s3.core.errors import InputError, PgS3Error
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.pgbouncer import PgBouncer
from testkit.postgres import Cluster
from tests.integration.conftest import only_on

TRANSACTIONS = {"pool_mode": "transaction"}
STATEMENTS = {"pool_mode": "statement"}
IN_TURN = {"pool_mode": "transaction", "round_robin": True}


@pytest.fixture
def pooler(pg16: Cluster) -> Iterator[Callable[..., PgBouncer]]:
    """(**settings) → a pooler in front of `pg16`."""
    reason = PgBouncer.available()
    if reason is not None:
        if os.environ.get("PG_S3_REQUIRE_TOOLS") == "1":
            pytest.fail(f"PG_S3_REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(PgBouncer(pg16, **settings))


@pytest.fixture
def verify(connections, spool_dir) -> Callable[..., dict]:
    """(server, backup=URI) → what the verification on that server returns."""

    def run(on: Cluster | PgBouncer, **arguments: object) -> dict:
        connections.set("pg_scratch", on.airflow_connection())
        return PgS3VerifyOperator(
            task_id="verify",
            postgres_conn_id="pg_scratch",
            aws_conn_id="aws",
            spool_dir=str(spool_dir),
            **arguments,
        ).execute(context={})

    return run


@pytest.fixture
def source(pg16: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg16, "create table t as select i from generate_series(1, 1000) as i", name="pooled")


def names(cluster: Cluster) -> str:
    return cluster.psql("select datname from pg_database order by 1")


@only_on("moto")
def test_a_pool_of_transactions_is_refused_and_nothing_is_changed_in_it(
    pg16: Cluster, source: str, pooler, back_up, restore, verify, leftovers
) -> None:
    backup = back_up(pg16, source)
    before = leftovers(), names(pg16)
    pg16.psql(f"alter database \"{source}\" set statement_timeout = '1h'")
    pool = pooler(**TRANSACTIONS)
    refused = pytest.raises(
        AirflowFailException,
        match="lends PostgreSQL's sessions for one transaction at a time.* connect to the server's direct "
        f"endpoint, which the pooler itself reaches at 127.0.0.1:{pg16.port}",
    )
    with refused:
        back_up(pool, source)
    for if_exists in ("fail", "clean", "replace"):
        with refused:
            restore(pool, source, backup=backup["uri"], if_exists=if_exists)
    with refused:
        verify(pool, backup=backup["uri"])
    evidence = backup["uri"].rpartition("/")[2].replace(".json", ".verified.json")
    after = [name for name in leftovers() if not name.endswith(evidence)], names(pg16)
    assert after == before
    with pool.connect(source) as other_client:
        assert other_client.execute("show statement_timeout").fetchone() == ("1h",)


@pytest.mark.parametrize("settings", [STATEMENTS, IN_TURN, TRANSACTIONS | {"pool_size": 1}])
def test_other_pools_are_refused_as_well(source: str, pooler, settings: dict) -> None:
    with pytest.raises(InputError, match="direct endpoint"):
        parameters(database=source, keywords=pooler(**settings).keywords).connect()


def test_nothing_in_a_search_path_is_run_to_find_out(pg16: Cluster, source: str, pooler) -> None:
    pg16.psql(
        """
        create function public.pg_backend_pid() returns int language plpgsql as $$ begin raise 'run'; end $$;
        create view public.pg_stat_activity as select pg_backend_pid() as pid, now() as backend_start;
        create function public.same(int, int) returns bool language plpgsql as $$ begin raise 'run'; end $$;
        create operator public.= (leftarg = int, rightarg = int, procedure = public.same);
        """
        + f'alter database "{source}" set search_path = public, pg_catalog',
        source,
    )
    with pytest.raises(InputError, match="direct endpoint"):
        parameters(database=source, keywords=pooler(**TRANSACTIONS).keywords).connect()
    parameters(database=source, keywords=pg16.keywords).connect().close()


def test_a_busy_pool_is_refused_as_well(pg16: Cluster, source: str, pooler) -> None:
    pool = pooler(**TRANSACTIONS, pool_size=3)
    done = threading.Event()

    def keep_busy(_: int) -> None:
        with pool.connect(source) as client:
            while not done.is_set():
                client.execute("select count(*) from t", prepare=False)

    with ThreadPoolExecutor(4) as others:
        clients = [others.submit(keep_busy, number) for number in range(4)]
        try:
            for _ in range(20):
                with pytest.raises(InputError, match="direct endpoint"):
                    parameters(database=source, keywords=pool.keywords).connect()
        finally:
            done.set()
        assert [client.exception() for client in clients] == [None] * 4


@only_on("moto")
def test_a_pool_of_sessions_serves(pg16: Cluster, source: str, new_name, pooler, back_up, restore, verify) -> None:
    # As many sessions as a backup is documented to take, of each database.
    pool = pooler(pool_mode="session", pool_size=4)
    backup = back_up(pool, source, jobs=2)
    for if_exists in ("fail", "replace"):
        target = source if if_exists == "replace" else new_name(pg16)
        restore(pool, target, backup=backup["uri"], if_exists=if_exists, keep_previous=False)
        assert pg16.psql("select count(*), sum(i) from t", target).strip() == "1000|500500"
    assert verify(pool, backup=backup["uri"])["outcome"] == "verified"


def test_a_lock_in_another_session_than_ours_is_noticed(source: str, pooler) -> None:
    """However it is that the pooler was not recognised."""
    pool = pooler(**IN_TURN)
    with pool.connect(source) as ours, pool.connect(source) as theirs:
        with theirs.transaction():
            theirs.execute("select 1")  # a second session for the pool
            ours.execute("select 1")
        with pytest.raises(PgS3Error, match="the lock that marks this backup as alive was lost"):
            hold_lock(ours, "20260101T000000Z-abcdef")


def test_a_lock_that_our_own_session_holds_is_another_backups(pg16: Cluster) -> None:
    """As in a pooled session, which two backups had, and the second took the first for dead."""
    backup_id = "20260101T000000Z-abcdef"
    with pg16.connect() as pooled:
        hold_lock(pooled, backup_id)
        assert is_alive(pooled, backup_id, "pg_dump")
        pooled.execute("select pg_advisory_unlock_all()")
        assert not is_alive(pooled, backup_id, "pg_dump")


def test_a_backup_without_its_lock_is_alive_while_its_pg_dump_may_be(
    pg16: Cluster, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisory_lock, "_PATIENCE_SECONDS", 0)
    before, after = "20260101T000000Z-abcdef", "99980101T000000Z-abcdef"
    with pg16.connect(source) as ours:
        with psycopg.connect(pg16.dsn(source), application_name="pg_dump"):
            assert is_alive(ours, before, "pg_dump")
            # It began before that backup, so it is none of its.
            assert not is_alive(ours, after, "pg_dump")
            assert not is_alive(ours, before, "the name of other sessions")
        monkeypatch.undo()
        assert not is_alive(ours, before, "pg_dump")
