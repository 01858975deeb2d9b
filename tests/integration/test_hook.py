"""The hook does what the operators do, with a repository by its name; both find the latest backup themselves."""

import json
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.hooks.pg_s3 import PgS3Hook
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.postgres import Cluster
from tests.integration.conftest import only_on

pytestmark = only_on("moto")


@pytest.fixture
def shop(pg16: Cluster, new_database, connections, repository: str) -> SimpleNamespace:
    """A database, and the repository `shops` by name, whose connection is not the default one."""
    named = [{"name": "shops", "uri": repository, "aws_conn_id": "aws"}]
    connections.set_option("repositories", json.dumps(named))
    database = new_database(pg16, "create table t as select i from generate_series(1, 100) i", name="shop")
    connections.source(pg16, database)
    return SimpleNamespace(hook=PgS3Hook("shops"), database=database, repository=repository)


def test_the_hook_backs_up_lists_verifies_restores_and_prunes(
    pg16: Cluster, shop, new_name, connections, spool_dir
):
    hook, database, copy = shop.hook, shop.database, new_name(pg16)
    made = [hook.back_up("pg_source", labels={"n": n}, spool_dir=str(spool_dir)) for n in ("1", "2")]
    assert made[0]["uri"].startswith(f"{shop.repository}/shop")
    assert [row["uri"] for row in hook.list(database)] == [made[1]["uri"], made[0]["uri"]]
    assert hook.latest(database, labels={"n": 1})["uri"] == made[0]["uri"]
    folder = made[1]["key"].split("/")[-2]
    assert hook.get(f"{folder}/latest") == hook.get(made[1]["uri"]) == hook.list(database, limit="1")[0]
    assert hook.get(made[0]["uri"])["stored_bytes"] == made[0]["stored_bytes"]

    checked = hook.verify(f"{folder}/latest", level="checksum", spool_dir=str(spool_dir))
    assert (checked["uri"], checked["outcome"]) == (made[1]["uri"], "verified")
    connections.target(pg16, copy)
    restored = hook.restore(
        postgres_conn_id="pg_target", database=copy, source_database=database, spool_dir=str(spool_dir)
    )
    assert (restored["uri"], restored["rows"], restored["database"]) == (made[1]["uri"], 100, copy)
    pruned = hook.prune(database, keep_last=1)
    assert [entry["uri"] for entry in pruned["deleted"]] == [made[0]["uri"]]
    assert [entry["uri"] for entry in pruned["kept"]] == [made[1]["uri"]]
    assert pruned["uri"] == shop.repository


def test_the_latest_is_found_by_the_operators_as_well(pg16: Cluster, shop, new_name, connections, spool_dir):
    first, second = (shop.hook.back_up("pg_source", spool_dir=str(spool_dir)) for _ in range(2))
    common = {"task_id": "t", "repository": "shops", "spool_dir": str(spool_dir)}
    verify = PgS3VerifyOperator(backup="", database=shop.database, postgres_conn_id="pg_source", **common)
    assert verify.execute({})["uri"] == second["uri"]
    third = shop.hook.back_up("pg_source", spool_dir=str(spool_dir))
    copy = new_name(pg16)
    connections.target(pg16, copy)
    arguments = {**common, "postgres_conn_id": "pg_target", "source_database": shop.database}
    restored = PgS3RestoreOperator(database=copy, verified_only="true", **arguments).execute({})
    assert (restored["uri"], restored["database"]) == (second["uri"], copy)
    # By itself, the database that is restored into says which one was backed up.
    again = {**common, "postgres_conn_id": "pg_source", "if_exists": "replace", "keep_previous": "False"}
    assert PgS3RestoreOperator(**again).execute({})["uri"] == third["uri"]
    assert first["uri"] != second["uri"]


def test_what_contradicts_itself_is_refused(pg16: Cluster, shop, repository: str):
    uri = f"{repository}/shop/20260101T000000Z-123456.json"
    for call, says in (
        (lambda: shop.hook.verify(uri, database="shop"), "is one backup: leave it out, or the arguments"),
        (lambda: shop.hook.verify(), "database must be the name of a database, not None: name one$"),
        (lambda: shop.hook.restore(postgres_conn_id="pg_source", source_database=""), "^source_database must be"),
        (lambda: PgS3Hook(aws_conn_id="aws").verify(), "^repository must be given"),
        (lambda: shop.hook.get(uri), "there is no backup"),
        (lambda: shop.hook.latest("nothing"), "there is no backup in shops of database 'nothing'"),
        (lambda: PgS3Hook("shop").list(), r"\[pg_s3\] repositories \(shops\), not 'shop'"),
    ):
        with pytest.raises(AirflowFailException, match=says):
            call()
    assert shop.hook.list() == []
    for method in (shop.hook.back_up, shop.hook.restore, shop.hook.verify, shop.hook.prune, shop.hook.latest):
        with pytest.raises(TypeError, match=r"^unexpected argument 'jbos': there are "):
            method(jbos=2)
