"""A server that ends idle sessions: ours idle for as long as a load takes, and must not be among them."""

import json
from collections.abc import Callable, Iterator

import pytest

from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.core.postgres.connection import parameters
from testkit.postgres import Cluster

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

LIMIT_SECONDS = 1
NAP = f"select pg_sleep({LIMIT_SECONDS + 1.5})"


@pytest.fixture
def impatient(pg16: Cluster) -> Iterator[dict]:
    """libpq's keywords of a superuser whose idle sessions end soon."""
    pg16.psql(
        "create role impatient superuser login password 'p';"
        f"alter role impatient set idle_session_timeout = '{LIMIT_SECONDS}s'"
    )
    yield pg16.keywords | {"user": "impatient", "password": "p"}
    pg16.psql("reassign owned by impatient to postgres; drop owned by impatient; drop role impatient")


@pytest.fixture
def restore_as_impatient(impatient: dict, connections, restore, pg16: Cluster) -> Callable[..., dict]:
    def run(database: str, backup: dict, **arguments: object) -> dict:
        connection = json.loads(pg16.airflow_connection(database)) | {"login": "impatient", "password": "p"}
        connections.set("impatient", json.dumps(connection))
        return restore(pg16, database, backup=backup["uri"], postgres_conn_id="impatient", **arguments)

    return run


def test_a_replace_whose_load_takes_longer_succeeds(
    pg16: Cluster, back_up, new_database, restore_as_impatient
) -> None:
    backup = back_up(pg16, new_database(pg16, "create table t as select 1 as i"))
    live = new_database(pg16, "create table old ()")
    restore_as_impatient(live, backup, if_exists="replace", keep_previous=False, post_restore_sql=NAP)
    assert pg16.psql("table t", live).strip() == "1"


def test_a_database_whose_restore_fails_late_is_dropped(
    pg16: Cluster, back_up, new_database, new_name, restore_as_impatient
) -> None:
    backup = back_up(pg16, new_database(pg16, "create table t as select 1 as i"))
    target = new_name(pg16)
    with pytest.raises(ServerError, match="division by zero"):
        restore_as_impatient(target, backup, post_restore_sql=[NAP, "select 1 / 0"])
    assert pg16.psql(f"select count(*) from pg_database where datname = '{target}'").strip() == "0"


def test_a_worker_of_pg_restore_that_waits_for_another_is_not_ended(
    pg16: Cluster, back_up, new_database, new_name, restore_as_impatient
) -> None:
    # One worker loads the table; its indexes are then for all of them, and the others have long been idle.
    source = new_database(
        pg16,
        f"""
        create function slow(i int) returns bool immutable language plpgsql as
            $$ begin perform pg_sleep({LIMIT_SECONDS + 1.5}); return true; end $$;
        create table t (i int check (slow(i)));
        insert into t values (1);
        """
        + "create index on t (i);" * 3,
    )
    target = new_name(pg16)
    restore_as_impatient(target, back_up(pg16, source), jobs=3)
    assert pg16.psql("select count(*) from pg_indexes where tablename = 't'", target).strip() == "3"


def test_a_pooler_that_refuses_options_is_asked_for_none(
    impatient: dict, tmp_path, monkeypatch: pytest.MonkeyPatch, s3
) -> None:
    params = parameters(database="postgres", keywords=impatient)
    assert params.environment(tmp_path)["PGOPTIONS"] == "-c idle_session_timeout=0"
    monkeypatch.setattr("airflow_pg_s3.core.postgres.connection._MAY_IDLE", "-c no_such_setting=0")
    assert "PGOPTIONS" not in params.environment(tmp_path)
