"""if_exists="replace": a database is restored beside the live one and takes its place, whole or not at all."""

import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import back_up_once
from tests.support.sampling import SEED, TORTURE
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

FILL = """
create table version (name text);
insert into version values ('{version}');
create table numbers as select i, '{version}'::text as version, repeat('x', 100) as filler
    from generate_series(1, {rows}) as i;
alter table numbers add primary key (i);
create table written (at timestamptz default now());
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


@pytest.fixture(scope="module")
def backup(pg16: Cluster, moto: S3Server) -> dict:
    """A backup of a database of another name, with other content."""
    pg16.create_database("newer")
    pg16.psql(FILL.format(version="new", rows=30_000), "newer")
    made = back_up_once(pg16, "newer", moto, f"s3://{moto.create_bucket('backup-of-replace')}")
    pg16.drop_database("newer")
    return made


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


def test_a_database_that_does_not_exist_is_simply_restored(
    pg16: Cluster, backup, restore, new_name, caplog, monkeypatch
) -> None:
    target = new_name(pg16)
    monkeypatch.setattr(PgS3RestoreOperator, "log", logging.getLogger("restore"))
    with caplog.at_level("INFO"):
        done = restore(pg16, target, backup=backup["uri"], if_exists="replace")
    assert f"created the database '{target}', which did not exist; the swap took" in caplog.text
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
    with pytest.raises(ServerError, match="no_such_table"):
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
            AirflowFailException, match=r"ALTER ROLE \"weak\" CREATEDB\).*neither its owner nor a member"
        ):
            restore(pg16, live, backup=backup["uri"], if_exists="replace", postgres_conn_id="weak")
        with pytest.raises(
            AirflowFailException,
            match=r"'not there' does not .*\(.*ALTER ROLE \"weak\" CREATEDB\); or have somebody create",
        ):
            restore(pg16, "not there", backup=backup["uri"], postgres_conn_id="weak", no_owner=True)
        with pytest.raises(AirflowFailException, match="connections left, and 1000 jobs take 1002"):
            restore(pg16, live, backup=backup["uri"], if_exists="replace", jobs=1000)
        assert databases(pg16) == before
    finally:
        pg16.psql("drop role weak")


class Client(threading.Thread):
    """Reads and writes the live database without pause, for the time of a `with` block.

    A lost connection is opened again; any other error ends it.
    """

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
                    connection.execute("insert into written default values")

    def wait_for(self, version: str) -> None:
        """Wait until it reads this version of the database, from now on."""
        position = len(self.reads)
        wait_until(lambda: any(read[0] == version for read in self.reads[position:]) or not self.is_alive())
        assert self.is_alive(), "the client has met another error than a lost connection"

    def __enter__(self) -> "Client":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


WHOLE = {("old", 2000, 1), ("new", 30_000, 1)}


def test_clients_see_the_old_or_the_new_database_whole(pg16: Cluster, live: str, backup, restore) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(pg16, live)) for _ in range(4)]
        for client in clients:
            client.wait_for("old")
        restore(pg16, live, backup=backup["uri"], if_exists="replace")
        for client in clients:
            client.wait_for("new")
    for client in clients:
        assert set(client.reads) == WHOLE


# At least so many statements; the last of them swap the names.
STATEMENTS = 36
# Without Airflow, which takes longer to start than all of the rest.
REPLACE = """
import boto3, json, logging, os, psycopg, signal, sys, threading
from botocore.config import Config
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.restore import restore
given = json.load(sys.stdin)
client = boto3.client("s3", **given["s3"], config=Config(s3={"addressing_style": "path"}))
request = RestoreRequest(
    backup=given["uri"], target=parameters(database=given["database"], keywords=given["pg"]), if_exists="replace",
    keep_previous=False, spool_dir=given["spool"], client_path=given["path"],
)
execute, number = psycopg.Connection.execute, 0
def die_before(*arguments, **keywords):
    global number
    number += threading.current_thread() is threading.main_thread()
    if number == given["last_statement"]:
        os.killpg(0, signal.SIGKILL)
    return execute(*arguments, **keywords)
psycopg.Connection.execute = die_before
restore(request, client, cancel=threading.Event(), log=logging.getLogger())
"""


@pytest.mark.parametrize("number", range(24 if TORTURE else 2))
def test_a_replace_that_is_killed_anywhere_leaves_one_whole_database_and_the_retry_succeeds(
    pg16: Cluster, live: str, backup, restore, s3: S3Server, spool_dir: Path, number: int
) -> None:
    before = set(databases(pg16))
    chance = random.Random(f"{SEED} replace {number}")
    given = {
        # Half of them end before a certain statement, so that each is met whatever the speed of the machine.
        "last_statement": chance.randint(1, STATEMENTS) if number % 2 else None,
        "uri": backup["uri"], "database": live, "spool": str(spool_dir), "path": [str(pg16.pg_bin)],
        "pg": {"host": pg16.host, "port": pg16.port, "user": pg16.user, "password": pg16.password},
        "s3": {"endpoint_url": s3.endpoint_url, "region_name": "us-east-1",
               "aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key},
    }  # fmt: skip
    with Client(pg16, live) as client:
        task = subprocess.Popen(
            [sys.executable, "-c", REPLACE], stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        assert task.stdin
        task.stdin.write(json.dumps(given))
        task.stdin.close()
        if given["last_statement"] is None:
            # From when its database appears, over a second or two: restoring, analyzing, swapping, dropping.
            wait_until(lambda: set(databases(pg16)) != before or task.poll() is not None)
            time.sleep(chance.uniform(0, 1.2))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.pid, signal.SIGKILL)
        assert task.wait() in (0, -signal.SIGKILL)
        assert version_of(pg16, live) in ("old", "new")
        restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
        client.wait_for("new")
    assert set(client.reads) <= WHOLE
    assert version_of(pg16, live) == "new"
    assert set(databases(pg16)) == before
    wait_until(lambda: not list(spool_dir.iterdir()))


def test_what_was_left_and_cannot_be_dropped_blocks_nothing(pg16: Cluster, live: str, backup, restore) -> None:
    left = f"{live}__restore_0a1b2c"
    pg16.create_database(left, is_template="true")
    try:
        done = restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
        assert version_of(pg16, live) == "new"
        (warning,) = done["warnings"]
        assert warning == (
            f"the database {left} is still there, as it cannot be dropped: cannot drop a template database"
        )
    finally:
        quoted = left.replace('"', '""')
        pg16.psql(f'alter database "{quoted}" is_template false')


def test_a_damaged_backup_never_takes_over(
    pg16: Cluster, live: str, back_up, restore, new_database, s3, bucket, leftovers
) -> None:
    backup = back_up(pg16, new_database(pg16, FILL.format(version="new", rows=30_000)))
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
