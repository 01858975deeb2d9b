"""if_exists="clean": what the backup holds is dropped and restored, in one transaction where that is possible."""

from collections.abc import Callable

import pytest

from lab.compare import compare_databases
from lab.postgres import Cluster
from lab.s3 import S3Server

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

NEW = (
    "create table t as select i, md5(i::text) as noise from generate_series(1, 100000) i; create table u (i int);"
)
OLD = "create table t as select 'old' as state; create table others (i int);"


@pytest.fixture
def backup(pg16: Cluster, back_up: Callable[..., dict], new_database: Callable[..., str]) -> dict:
    return back_up(pg16, new_database(pg16, NEW))


def tables(cluster: Cluster, database: str) -> list[str]:
    with cluster.connect(database) as connection:
        return [
            name for (name,) in connection.execute("select tablename from pg_tables where schemaname = 'public'")
        ]


def test_it_drops_what_the_backup_holds_and_nothing_else(pg16: Cluster, backup, restore, new_database) -> None:
    target = new_database(pg16, OLD)
    restore(pg16, target, backup=backup["uri"], if_exists="clean", jobs=1)
    assert sorted(tables(pg16, target)) == ["others", "t", "u"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_with_one_job_a_failure_leaves_the_old_content(
    pg16: Cluster, backup, restore, new_database, s3: S3Server, bucket: str, leftovers, capfd, jobs: int
) -> None:
    target = new_database(pg16, OLD)
    key = next(key for key in leftovers() if key.endswith(".dat.zst"))
    data = bytearray(s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    data[len(data) * 2 // 3] ^= 1
    s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(data))
    with pytest.raises(Exception, match=r"the data of public\.t"):
        restore(pg16, target, backup=backup["uri"], if_exists="clean", jobs=jobs)
    said = capfd.readouterr().out
    if jobs == 1:
        assert "neither old nor new" not in said
        with pg16.connect(target) as connection:
            assert connection.execute("select * from t").fetchall() == [("old",)]
    else:
        assert "works without a transaction, as jobs is not 1" in said


def test_partitioned_keys_are_dropped_in_the_transaction(
    pg16: Cluster, back_up, restore, new_database, capfd
) -> None:
    source = new_database(
        pg16,
        "create table p (i int primary key) partition by range (i);"
        "create table p1 partition of p for values from (0) to (10); insert into p values (1), (2)",
    )
    target = new_database(pg16)
    backup = back_up(pg16, source)
    for _ in range(2):
        restore(pg16, target, backup=backup["uri"], if_exists="clean", jobs=1)
        assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []
    assert "without a transaction" not in capfd.readouterr().out
