"""Limits of a role, which are meant for applications, and end no session or command of ours."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from airflow_pg_s3.core.postgres.connection import ConnectionParameters, parameters
from airflow_pg_s3.core.restore.target import InPlaceTarget
from testkit.dumps import dump
from testkit.postgres import Cluster
from tests.integration.restore.external.test_external_archives import UNSAFE
from tests.support.sampling import sample

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

LIMIT_SECONDS = 0.4
LONGER = 3 * LIMIT_SECONDS
LIMITS = (
    "statement_timeout", "lock_timeout", "transaction_timeout", "idle_in_transaction_session_timeout",
    "idle_session_timeout",
)  # fmt: skip


@pytest.fixture
def limit(pg18: Cluster, s3) -> Iterator[Callable[..., ConnectionParameters]]:
    """(names of settings) → how a superuser connects who has these limits."""

    def set_limits(*names: str) -> ConnectionParameters:
        for name in names:
            pg18.psql(f"alter role limited set {name} = '{LIMIT_SECONDS}s'")
        return parameters(database="postgres", keywords=pg18.keywords | {"user": "limited", "password": "p"})

    pg18.psql("create role limited superuser login password 'p'")
    yield set_limits
    pg18.psql("reassign owned by limited to postgres; drop owned by limited; drop role limited")


@pytest.mark.parametrize(
    "name", sample([name for name in LIMITS if name != "lock_timeout"], 2, "outlasted limits")
)
def test_a_session_of_ours_outlasts_it(limit, name: str) -> None:
    with limit(name).connect() as connection:
        with connection.transaction():
            connection.execute("select pg_sleep(%s)", [LONGER])
            time.sleep(LONGER)
            connection.execute("select 1")
        time.sleep(LONGER)
        assert connection.execute(f"show {name}").fetchone() == ("0",)


@pytest.mark.parametrize("name", ["statement_timeout", "lock_timeout"])
def test_a_database_is_created_however_long_its_template_is_locked(
    limit, pg18: Cluster, new_name, name: str
) -> None:
    params = limit(name).of(new_name(pg18))
    with (
        psycopg.connect(pg18.dsn()) as other,
        InPlaceTarget(params, must_be_empty=True, log=logging.getLogger()) as target,
    ):
        other.execute("comment on database template0 is 'busy'")  # locks it until the end of the transaction
        timer = threading.Timer(LONGER, other.rollback)
        timer.start()
        target.prepare(None)
        timer.join()
    assert pg18.psql("select current_database()", params.database).strip() == params.database


@pytest.mark.parametrize("if_exists", ["fail", "replace"])
def test_a_restore_and_its_sql_take_longer_than_all_of_them(
    limit, pg18: Cluster, back_up, restore, connections, new_database, new_name, if_exists: str
) -> None:
    backup = back_up(pg18, new_database(pg18, "create table t as select 1 as i"))
    limit(*LIMITS)
    target = new_name(pg18)
    connection = json.loads(pg18.airflow_connection(target)) | {"login": "limited", "password": "p"}
    connections.set("limited", json.dumps(connection))
    sql = [f"select pg_sleep({LONGER})", "insert into public.t values (2)"]
    arguments = {"postgres_conn_id": "limited", "if_exists": if_exists, "post_restore_sql": sql}
    restore(pg18, target, backup=backup["uri"], **arguments)
    assert pg18.psql("select i from t order by i", target).split() == ["1", "2"]


def test_a_plain_dump_that_knows_none_of_them_is_replayed(
    limit, pg18: Cluster, put, restore, connections, new_database, new_name, tmp_path
) -> None:
    source = new_database(pg18, "create table t as select 1 as i")
    script = dump(pg18, source, "plain", tmp_path)
    slow = f"SELECT pg_sleep({LONGER});\n".encode()
    lines = [line for line in script.splitlines(keepends=True) if not (b"_timeout" in line and b"SET" in line)]
    at = next(number for number, line in enumerate(lines) if line.startswith(b"CREATE TABLE"))
    limit(*LIMITS)
    target = new_name(pg18)
    connection = json.loads(pg18.airflow_connection(target)) | {"login": "limited", "password": "p"}
    connections.set("limited", json.dumps(connection))
    uri = put(b"".join([*lines[:at], slow, *lines[at:]]))
    restore(pg18, target, backup=uri, postgres_conn_id="limited", **UNSAFE)
    assert pg18.psql("table t", target).strip() == "1"
