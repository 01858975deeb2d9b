"""The database from which others are created and dropped, and a database that holds nothing but an extension."""

from collections.abc import Iterator

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.postgres import Cluster

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

FILL = "create table t as select 1 as i"


@pytest.fixture(
    params=[
        ("alter database postgres rename to elsewhere", "alter database elsewhere rename to postgres"),
        ("alter database postgres allow_connections off", "alter database postgres allow_connections on"),
    ],
    ids=["missing", "closed"],
)
def backup(request: pytest.FixtureRequest, pg16: Cluster, back_up, new_database) -> Iterator[dict]:
    """A backup. The server has no database postgres to connect to any more."""
    close, reopen = request.param
    made = back_up(pg16, new_database(pg16, FILL))
    pg16.psql(close, "template1")
    yield made
    pg16.psql(reopen, "template1")


def test_a_database_is_created_without_postgres(pg16: Cluster, new_name, restore, backup: dict) -> None:
    target = new_name(pg16)
    restore(pg16, target, backup=backup["uri"])
    assert pg16.psql("table t", target).strip() == "1"


def test_a_database_is_replaced_without_postgres(pg16: Cluster, new_database, restore, backup: dict) -> None:
    live = backup["database"]
    pg16.psql("update t set i = 2", live)
    restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
    assert pg16.psql("table t", live).strip() == "1"


def test_a_backup_is_verified_without_postgres(pg16: Cluster, connections, spool_dir, backup: dict) -> None:
    connections.set("pg_scratch", pg16.airflow_connection(backup["database"]))
    operator = PgS3VerifyOperator(
        task_id="verify",
        backup=backup["uri"],
        aws_conn_id="aws",
        postgres_conn_id="pg_scratch",
        spool_dir=str(spool_dir),
    )
    assert operator.execute(context={})["rows"] == 1
    assert "__verify_" not in pg16.psql("select datname from pg_database", "template1")


VECTORS = (
    "create extension vector; create table v (i int primary key, at vector(2)); insert into v values (1, '[2,3]')"
)


@pytest.mark.parametrize("sql", [VECTORS, FILL], ids=["of the backup", "of nobody"])
def test_an_extension_alone_is_no_content(
    pg16_with_vector: Cluster, back_up, restore, new_database, sql: str
) -> None:
    backup = back_up(pg16_with_vector, new_database(pg16_with_vector, sql))
    target = new_database(pg16_with_vector, "create extension vector")
    restore(pg16_with_vector, target, backup=backup["uri"])
    table, expected = ("v", "1|[2,3]") if sql == VECTORS else ("t", "1")
    assert pg16_with_vector.psql(f"table {table}", target).strip() == expected


def test_a_table_beside_an_extension_is_content(pg16_with_vector: Cluster, back_up, restore, new_database) -> None:
    backup = back_up(pg16_with_vector, new_database(pg16_with_vector, VECTORS))
    target = new_database(pg16_with_vector, "create extension vector; create table w (at vector(2))")
    with pytest.raises(AirflowFailException, match=r"not empty, it holds table public\.w: restore into"):
        restore(pg16_with_vector, target, backup=backup["uri"])
