"""Endpoints that lead to several servers: all of a task goes to one of them, or it fails and says why."""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.hooks.connections import postgres_parameters
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.balancer import Balancer
from testkit.postgres import Cluster
from tests.integration.conftest import only_on

pytestmark = only_on("moto")


class Pair:
    """Two servers of one major with a database of one name and a superuser of one name, and other rows in each."""

    def __init__(self, first: Cluster, second: Cluster) -> None:
        self.clusters = [first, second]
        self.name = f"balanced {secrets.token_hex(4)}"
        self.copy = f"{self.name} copy"
        self.ports = [cluster.port for cluster in self.clusters]

    def connection(self, **fields: object) -> str:
        same = {"conn_type": "postgres", "login": self.name, "password": "p", "schema": self.name}
        return json.dumps(same | fields)

    @property
    def random(self) -> str:
        """An Airflow connection that goes to either, as libpq throws dice."""
        extra = {"port": ",".join(map(str, self.ports)), "load_balance_hosts": "random"}
        return self.connection(host="127.0.0.1,127.0.0.1", extra=extra)


@pytest.fixture
def pair(pg16: Cluster, pg16_with_vector: Cluster) -> Iterator[Pair]:
    pair = Pair(pg16, pg16_with_vector)
    for number, cluster in enumerate(pair.clusters, start=1):
        cluster.psql(f"create role \"{pair.name}\" superuser login password 'p'")
        cluster.create_database(pair.name)
        cluster.psql(f"create table t as select {number} as server from generate_series(1, {number})", pair.name)
    yield pair
    for cluster in pair.clusters:
        for name in (pair.name, pair.copy):
            cluster.drop_database(name)
        cluster.psql(f'drop role "{pair.name}"')


@pytest.fixture
def identifiers(pair: Pair) -> list[str]:
    query = "select system_identifier from pg_control_system()"
    return [cluster.psql(query).strip() for cluster in pair.clusters]


@pytest.mark.parametrize(
    ("jobs", "first"),
    [
        pytest.param(1, 1, id="our own next session"),
        pytest.param(1, 2, id="pg_dump"),
        pytest.param(2, 3, id="a job of pg_dump"),
    ],
)
def test_a_backup_that_is_led_to_another_server_fails_and_leaves_nothing(
    pair: Pair, connections, back_up, leftovers, jobs: int, first: int
) -> None:
    with Balancer(lambda number: pair.ports[number >= first]) as balancer:
        connections.set("balanced", pair.connection(host=balancer.host, port=balancer.port))
        with pytest.raises(ServerError, match=r"leads to more than one server.* name one of them") as caught:
            back_up(pair.clusters[0], pair.name, postgres_conn_id="balanced", jobs=jobs)
    assert f"{pair.name}@127.0.0.1:{balancer.port}/{pair.name}" in str(caught.value)
    assert leftovers() == []


def test_all_of_a_backup_is_of_the_server_that_its_manifest_names(
    pair: Pair, identifiers: list[str], connections, back_up, manifest_of
) -> None:
    connections.set("balanced", pair.random)
    for _ in range(3):
        backup = back_up(pair.clusters[0], pair.name, postgres_conn_id="balanced", include_globals=True)
        # Each server has another number of rows.
        assert manifest_of(backup).server.system_identifier == identifiers[backup["rows"] - 1]


def test_the_address_of_a_first_connection_is_all_that_later_ones_know(pair: Pair, connections) -> None:
    connections.set("balanced", pair.random)
    params = postgres_parameters("balanced", None)
    with params.connect() as first:
        pinned = params.of("postgres").pinned(first)
        port = first.info.port
    assert pinned.address == {"host": "127.0.0.1", "hostaddr": "127.0.0.1", "port": str(port)}
    for _ in range(8):
        with pinned.connect() as later:
            assert (later.info.port, later.info.dbname) == (port, "postgres")
    (other,) = {*pair.ports} - {port}
    with pytest.raises(ServerError, match="leads to more than one server"):
        replace(pinned, address={**pinned.address, "port": str(other)}).connect()


@pytest.mark.parametrize("if_exists", ["fail", "replace"])
def test_all_of_a_restore_goes_to_one_server(pair: Pair, connections, back_up, restore, if_exists: str) -> None:
    backup = back_up(pair.clusters[0], pair.name)
    connections.set("balanced", pair.random)
    arguments = {"backup": backup["uri"], "postgres_conn_id": "balanced", "if_exists": if_exists}
    assert restore(pair.clusters[0], pair.copy, **arguments)["rows"] == backup["rows"]


def test_a_verification_on_several_servers_makes_use_of_one(pair: Pair, connections, back_up) -> None:
    backup = back_up(pair.clusters[0], pair.name)
    connections.set("balanced", pair.random)
    verify = PgS3VerifyOperator(task_id="v", backup=backup["uri"], postgres_conn_id="balanced", aws_conn_id="aws")
    assert verify.execute({})["outcome"] == "verified"


@pytest.mark.parametrize("option", ["--serializable-deferrable", "--seri"])
def test_a_snapshot_without_anomalies_is_waited_for(pair: Pair, back_up, option: str) -> None:
    cluster = pair.clusters[0]
    waiting = f"select from pg_stat_activity where wait_event = 'SafeSnapshot' and datname = '{pair.name}'"
    seen = threading.Event()
    with cluster.connect(pair.name) as writer, cluster.connect() as watcher:
        writer.execute("begin isolation level serializable; insert into t values (3)")

        def commit_when_it_is_waited_for() -> None:
            deadline = time.monotonic() + 60
            while not watcher.execute(waiting).rowcount and time.monotonic() < deadline:
                time.sleep(0.02)
            if time.monotonic() < deadline:
                seen.set()
            writer.execute("commit")

        thread = threading.Thread(target=commit_when_it_is_waited_for)
        thread.start()
        backup = back_up(cluster, pair.name, pg_dump_options=["--schema", "public", option, "--no-comments"])
        thread.join()
    assert seen.is_set()
    assert backup["rows"] in (1, 2)


def test_a_snapshot_that_is_given_is_kept(pair: Pair, back_up) -> None:
    cluster = pair.clusters[0]
    with cluster.connect(pair.name) as before:
        before.execute("begin isolation level repeatable read")
        ((snapshot,),) = before.execute("select pg_export_snapshot()").fetchall()
        cluster.psql("insert into t values (3)", pair.name)
        assert back_up(cluster, pair.name, pg_dump_options=["--snapshot", snapshot])["rows"] == 1
    assert back_up(cluster, pair.name)["rows"] == 2
