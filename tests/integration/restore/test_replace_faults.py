"""if_exists="replace" with bad backups and a bad S3: the live database is never swapped for less than all."""

import re
from collections.abc import Callable, Iterator

import pytest

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.s3 import download
from testkit.fault_proxy import Fault, FaultProxy, Request, Reset, Truncate
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.support.sampling import combine

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

DATABASE = "replace faults"
LARGE = ["large_0", "large_1", "large_2", "large_3"]
FILL = "".join(
    f"create table {table} as select md5((i * 7)::text) || md5(i::text) noise, i from generate_series(1, 40000) i;"
    for table in LARGE
)
SMALL = "create table small as select i from generate_series(1, 100) i;"
ROWS = "select " + " + ".join(f"(select count(*) from {table})" for table in LARGE)


@pytest.fixture(scope="module")
def source(pg16: Cluster) -> Iterator[Cluster]:
    pg16.create_database(DATABASE)
    pg16.psql(FILL + SMALL, DATABASE)
    yield pg16
    pg16.drop_database(DATABASE)


@pytest.fixture
def backup(source: Cluster, back_up: Callable[..., dict]) -> dict:
    return back_up(source, DATABASE)


def databases(cluster: Cluster) -> dict[str, tuple[int, str | None]]:
    with cluster.connect() as connection:
        rows = connection.execute("select datname, oid, shobj_description(oid, 'pg_database') from pg_database")
        return {name: (oid, comment) for name, oid, comment in rows.fetchall()}


@pytest.fixture
def live(source: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(source, "create table old as select 'old' as content", name="live")


@pytest.fixture
def replace_fails(source: Cluster, live: str, backup: dict, restore: Callable[..., dict]) -> Callable[[str], None]:
    """(message): replace the live database, and see that it fails so, and that nothing has changed."""

    def check(message: str) -> None:
        before = databases(source)
        with source.connect(live) as client:
            with pytest.raises(PgS3Error, match=message):
                restore(source, live, backup=backup["uri"], if_exists="replace")
            # The very session that was there before.
            assert client.execute("select content from old").fetchall() == [("old",)]
        assert databases(source) == before

    return check


@pytest.fixture
def key_of(backup: dict, object_of: Callable) -> Callable[[str], str]:
    """table → key of the object that holds its data."""
    return lambda table: object_of(backup, table)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("damage", "table"), combine([flipped, cut_short, None], ["large_1", "small"], name="damaged")
)
def test_a_damaged_object_is_named_and_the_live_database_stays(
    s3: S3Server, bucket: str, replace_fails, key_of, table: str, damage: Callable[[bytes], bytes] | None
) -> None:
    key, client = key_of(table), s3.client()
    if damage is None:
        client.delete_object(Bucket=bucket, Key=key)
    else:
        data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        client.put_object(Bucket=bucket, Key=key, Body=damage(data))
    # A pack is named, as that is what is damaged; a run may hold other tables' chunks as well.
    replace_fails(r"the data of public\.large_\d \(" if table != "small" else re.escape(key.rpartition("/")[2]))


class EveryThird:
    """A rule for the proxy: every third body that S3 sends breaks midway."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._bodies = 0

    def __call__(self, request: Request) -> Fault | None:
        if request.operation != "GetObject":
            return None
        self._bodies += 1
        return self._fault if self._bodies % 3 == 0 else None


@pytest.fixture
def proxy(s3: S3Server, backup: dict, connections) -> Iterator[FaultProxy]:
    with FaultProxy(s3) as running:
        connections.set("aws", running.airflow_connection())
        yield running


@pytest.mark.parametrize("fault", [Reset("midway"), Truncate()], ids=["reset", "ended"])
def test_an_s3_that_drops_every_third_body_midway_is_asked_for_the_rest(
    source: Cluster, live: str, backup: dict, restore, proxy: FaultProxy, fault: Fault
) -> None:
    proxy.reset(EveryThird(fault))
    done = restore(source, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
    assert len(proxy.faults) >= 2
    assert done["warnings"] == []
    for query in (ROWS, "select md5(string_agg(noise, '' order by i)) from large_3", "table small"):
        assert source.psql(query, live) == source.psql(query, DATABASE)


def test_an_s3_that_drops_every_body_of_an_object_leaves_the_live_database(
    replace_fails, key_of, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.01)
    name = key_of("large_2").rpartition("/")[2]
    proxy.reset(lambda r: Reset("before") if r.operation == "GetObject" and r.key.endswith(name) else None)
    replace_fails(re.escape(name))
    assert proxy.faults
