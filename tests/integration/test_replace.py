"""if_exists="replace": a database is restored beside the live one and takes its place, whole or not at all."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from lab.compare import compare_databases
from lab.postgres import Cluster

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

FILL = """
create table version (name text);
insert into version values ('{version}');
create table numbers as select i, '{version}'::text as version, repeat('x', 100) as filler
    from generate_series(1, {rows}) as i;
alter table numbers add primary key (i);
"""


def databases(cluster: Cluster) -> dict[str, str | None]:
    """Names and comments of a cluster's databases."""
    with cluster.connect() as connection:
        return dict(
            connection.execute(
                "select datname, shobj_description(oid, 'pg_database') from pg_database where not datistemplate"
            ).fetchall()
        )


@pytest.fixture
def live(pg16: Cluster) -> Iterator[str]:
    """The name of a live database, all of whose copies are dropped afterwards."""
    name = 'live "db"'
    pg16.create_database(name)
    pg16.psql(FILL.format(version="old", rows=2000), name)
    yield name
    for other in databases(pg16):
        if other.startswith(name):
            pg16.drop_database(other)


@pytest.fixture
def backup(pg16: Cluster, back_up: Callable[..., dict], new_database: Callable[..., str]) -> dict:
    """A backup of a database of another name, with other content."""
    return back_up(pg16, new_database(pg16, FILL.format(version="new", rows=30_000), name="newer"))


def version_of(cluster: Cluster, database: str) -> str:
    with cluster.connect(database) as connection:
        return connection.execute("select name from version").fetchone()[0]


def test_the_live_database_is_replaced_and_the_old_one_kept(pg16: Cluster, live: str, backup, restore) -> None:
    before = set(databases(pg16))
    done = restore(pg16, live, backup=backup["uri"], if_exists="replace")
    assert version_of(pg16, live) == "new"
    assert done["database"] == live
    assert version_of(pg16, done["previous_database"]) == "old"
    assert set(databases(pg16)) == before | {done["previous_database"]}


def test_the_old_one_is_dropped_if_it_is_not_wanted(pg16: Cluster, live: str, backup, restore) -> None:
    before = set(databases(pg16))
    done = restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
    assert done["previous_database"] is None
    assert version_of(pg16, live) == "new"
    assert set(databases(pg16)) == before


def test_a_database_that_does_not_exist_is_simply_restored(pg16: Cluster, backup, restore, new_name) -> None:
    target = new_name(pg16)
    done = restore(pg16, target, backup=backup["uri"], if_exists="replace")
    assert version_of(pg16, target) == "new"
    assert done["previous_database"] is None


def test_a_long_name_is_replaced_too(pg16: Cluster, backup, restore) -> None:
    name = "ü" * 31
    pg16.create_database(name)
    try:
        done = restore(pg16, name, backup=backup["uri"], if_exists="replace")
        assert version_of(pg16, name) == "new"
        pg16.drop_database(done["previous_database"])
    finally:
        pg16.drop_database(name)


def properties(cluster: Cluster, database: str) -> list[tuple]:
    with cluster.connect() as connection:
        return connection.execute(
            """
            select pg_get_userbyid(datdba), datconnlimit, shobj_description(d.oid, 'pg_database'),
                (select array_agg(a::text order by a::text) from unnest(datacl) a),
                (select array_agg((setrole::regrole::text, setconfig)::text order by setrole)
                 from pg_db_role_setting where setdatabase = d.oid)
            from pg_database d where datname = %s
            """,
            [database],
        ).fetchall()


def test_the_properties_of_the_live_database_carry_over(pg16: Cluster, live: str, backup, restore) -> None:
    quoted = live.replace('"', '""')
    pg16.psql(
        f"""
        create role "the owner"; create role reader; create role writer;
        alter database "{quoted}" owner to "the owner";
        alter database "{quoted}" connection limit 17;
        comment on database "{quoted}" is 'it''s the live one';
        revoke all on database "{quoted}" from public;
        grant connect on database "{quoted}" to reader;
        grant create, temporary on database "{quoted}" to writer with grant option;
        alter database "{quoted}" set search_path to "$user", public, "odd, name";
        alter database "{quoted}" set work_mem to '7MB';
        alter database "{quoted}" set my.own to 'it''s, odd';
        alter role reader in database "{quoted}" set statement_timeout to '5s';
        """
    )
    try:
        before = properties(pg16, live)
        done = restore(pg16, live, backup=backup["uri"], if_exists="replace")
        assert properties(pg16, live) == before
        assert version_of(pg16, live) == "new"
        assert version_of(pg16, done["previous_database"]) == "old"
    finally:
        for name in databases(pg16):
            if name.startswith(live):
                pg16.drop_database(name)
        pg16.psql('drop role reader; drop role writer; drop role "the owner"')


def test_commands_run_before_anybody_sees_the_new_database(pg16: Cluster, live: str, backup, restore) -> None:
    commands = ["update version set name = 'masked'", "create table made as select count(*) from numbers"]
    restore(pg16, live, backup=backup["uri"], if_exists="replace", post_restore_sql=commands)
    assert version_of(pg16, live) == "masked"


def test_a_command_that_fails_leaves_the_live_database_as_it_was(
    pg16: Cluster, live: str, backup, restore
) -> None:
    before = databases(pg16)
    with pytest.raises(psycopg.errors.UndefinedTable, match="no_such_table"):
        restore(
            pg16, live, backup=backup["uri"], if_exists="replace", post_restore_sql="delete from no_such_table"
        )
    assert version_of(pg16, live) == "old"
    assert databases(pg16) == before


def test_the_planner_has_statistics(pg16: Cluster, live: str, backup, restore) -> None:
    restore(pg16, live, backup=backup["uri"], if_exists="replace")
    with pg16.connect(live) as connection:
        assert connection.execute("select reltuples from pg_class where relname = 'numbers'").fetchone() == (
            30_000,
        )


def test_obstacles_are_all_named_at_once_and_nothing_is_touched(
    pg16: Cluster, live: str, backup, restore, connections
) -> None:
    pg16.psql("create role weak login password 'weak'")
    before = databases(pg16)
    try:
        weak = json.loads(pg16.airflow_connection(live)) | {"login": "weak", "password": "weak"}
        connections.set("weak", json.dumps(weak))
        with pytest.raises(
            AirflowFailException, match=r"may not create databases.*neither its owner nor a member"
        ):
            restore(pg16, live, backup=backup["uri"], if_exists="replace", postgres_conn_id="weak")
        with pytest.raises(AirflowFailException, match="connections left, and 1000 jobs take 1002"):
            restore(pg16, live, backup=backup["uri"], if_exists="replace", jobs=1000)
        assert databases(pg16) == before
    finally:
        pg16.psql("drop role weak")


class Client(threading.Thread):
    """Reads and writes the live database without pause; a lost connection is opened again."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        super().__init__(daemon=True)
        self._dsn = cluster.dsn(database)
        self._end = threading.Event()
        self.reads: list[tuple[str, int, int]] = []

    def run(self) -> None:
        while not self._end.is_set():
            with (
                contextlib.suppress(psycopg.OperationalError),
                psycopg.connect(self._dsn, autocommit=True) as connection,
            ):
                while not self._end.is_set():
                    self.reads.append(
                        connection.execute(
                            "select (select name from version), count(*), count(distinct version) from numbers"
                        ).fetchone()
                    )
                    connection.execute("create table if not exists written (at timestamptz default now())")
                    connection.execute("insert into written default values")

    def stop(self) -> list[tuple[str, int, int]]:
        self._end.set()
        self.join()
        return self.reads


WHOLE = {("old", 2000, 1), ("new", 30_000, 1)}


def test_clients_see_the_old_or_the_new_database_whole(pg16: Cluster, live: str, backup, restore) -> None:
    clients = [Client(pg16, live) for _ in range(4)]
    for client in clients:
        client.start()
    restore(pg16, live, backup=backup["uri"], if_exists="replace")
    time.sleep(0.3)
    reads = [read for client in clients for read in client.stop()]
    assert set(reads) == WHOLE


REPLACE = """
import sys
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
PgS3RestoreOperator(
    task_id="r", backup=sys.argv[1], postgres_conn_id="pg_target", aws_conn_id="aws", if_exists="replace",
    keep_previous=False, spool_dir=sys.argv[2],
).execute({})
"""


@pytest.mark.parametrize("seed", range(int(os.environ.get("PG_S3_KILLS", "8"))))
def test_a_replace_that_is_killed_anywhere_leaves_one_whole_database_and_the_retry_succeeds(
    pg16: Cluster, live: str, backup, restore, connections, spool_dir: Path, seed: int
) -> None:
    before = set(databases(pg16))
    connections.target(pg16, live)
    client = Client(pg16, live)
    client.start()
    task = subprocess.Popen([sys.executable, "-c", REPLACE, backup["uri"], str(spool_dir)], start_new_session=True)
    # From when its database appears, over some two seconds: restoring, analyzing, swapping, dropping.
    deadline = time.monotonic() + 60
    while set(databases(pg16)) == before and task.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 1.2))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(task.pid, signal.SIGKILL)
    task.wait()
    assert version_of(pg16, live) in ("old", "new")
    restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
    time.sleep(0.1)
    assert set(client.stop()) <= WHOLE
    assert version_of(pg16, live) == "new"
    assert set(databases(pg16)) == before
    deadline = time.monotonic() + 20
    while list(spool_dir.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_damaged_backup_never_takes_over(
    pg16: Cluster, live: str, backup, restore, s3, bucket, leftovers
) -> None:
    key = max(
        (key for key in leftovers() if "/" in key and not key.endswith((".json", "begun"))),
        key=lambda key: s3.client().head_object(Bucket=bucket, Key=key)["ContentLength"],
    )
    data = bytearray(s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(data))
    before = databases(pg16)
    with pytest.raises(Exception, match=r"numbers|pack-"):
        restore(pg16, live, backup=backup["uri"], if_exists="replace")
    assert version_of(pg16, live) == "old"
    assert databases(pg16) == before


def test_a_replaced_database_equals_its_source(
    pg16: Cluster, back_up, restore, new_database, hard_database
) -> None:
    source = hard_database(pg16)
    target = new_database(pg16, "create table in_the_way ()")
    done = restore(pg16, target, backup=back_up(pg16, source)["uri"], if_exists="replace")
    assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []
    pg16.drop_database(done["previous_database"])
