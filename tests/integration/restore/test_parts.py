"""Restoring a part of a backup, also into a database that holds other things."""

import logging

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import back_up_once

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

SOURCE = """
create schema app;
create type app.state as enum ('new', 'done');
create function app.stamp() returns trigger language plpgsql as 'begin return new; end';
create table app.customers (id int primary key, name text);
create table app.orders (
    id int primary key, customer int references app.customers, state app.state default 'new'
);
create index on app.orders (state);
create trigger stamp before insert on app.orders for each row execute function app.stamp();
create view app.open_orders as select * from app.orders where state = 'new';
create view app.names as select id, name from app.customers group by id; -- which needs the primary key
create materialized view app.states as select state, count(*) from app.orders group by state;
create materialized view app.busy_states as select * from app.states where count > 1;
create table public.notes (i int);
insert into app.customers select i, 'c' || i from generate_series(1, 10) i;
insert into app.orders select i, i, 'done' from generate_series(1, 5) i;
insert into notes values (1), (2);
"""


@pytest.fixture(scope="module")
def backup(pg16: Cluster, moto: S3Server) -> dict:
    pg16.create_database("source of parts")
    pg16.psql(SOURCE, "source of parts")
    made = back_up_once(pg16, "source of parts", moto, f"s3://{moto.create_bucket('backup-of-parts')}")
    pg16.drop_database("source of parts")
    return made


def relations(cluster: Cluster, database: str) -> set[str]:
    with cluster.connect(database) as connection:
        rows = connection.execute(
            "select nspname || '.' || relname from pg_class c join pg_namespace n on n.oid = relnamespace"
            " where nspname in ('app', 'public')"
        ).fetchall()
    return {name for (name,) in rows}


def count(cluster: Cluster, database: str, table: str) -> int:
    return int(cluster.psql(f"select count(*) from {table}", database))


def test_a_table_goes_into_a_database_beside_others(pg16: Cluster, backup, restore, new_database) -> None:
    target = new_database(pg16, "create table public.precious as select 42 as answer")
    done = restore(pg16, target, backup=backup["uri"], tables=["app.orders"])
    assert done["rows"] == 5
    # Its schema, type, function and index came along; the foreign key would need a table that did not.
    assert relations(pg16, target) >= {"public.precious", "app.orders", "app.orders_pkey", "app.orders_state_idx"}
    assert "app.customers" not in relations(pg16, target)
    assert count(pg16, target, "app.orders") == 5


def test_what_it_needs_and_is_there_already_stays_as_it_is(pg16: Cluster, backup, restore, new_database) -> None:
    target = new_database(pg16)
    restore(pg16, target, backup=backup["uri"], tables=["app.customers"])
    restore(pg16, target, backup=backup["uri"], tables=["app.orders", "notes"])
    restore_again = pg16.psql("drop table app.orders", target)
    assert restore_again is not None
    restore(pg16, target, backup=backup["uri"], tables=["app.orders"])
    assert count(pg16, target, "app.orders") == 5
    assert count(pg16, target, "notes") == 2


def test_a_view_is_not_cleaned_without_what_it_reads(pg16: Cluster, backup, restore, new_database) -> None:
    target = new_database(pg16, "create schema app")
    with pytest.raises(
        AirflowFailException, match=r"read app\.orders, which the target lacks: .*\['app.orders'\]"
    ):
        restore(pg16, target, backup=backup["uri"], tables=["app.open_orders"], if_exists="clean")
    with pytest.raises(AirflowFailException, match=r"read app\.customers, which the target lacks: "):
        restore(pg16, target, backup=backup["uri"], tables=["app.names"], if_exists="clean")
    restore(pg16, target, backup=backup["uri"], tables=["app.orders"])
    views = ["app.open_orders", "app.names"]
    scripts = ["create table app.customers (id int primary key, name text)"]
    restore(pg16, target, backup=backup["uri"], tables=views, if_exists="clean", pre_restore_sql=scripts)
    assert relations(pg16, target) >= {*views}


def test_a_materialized_view_is_filled_without_those_that_read_it(
    pg16: Cluster, backup, restore, new_database
) -> None:
    target = new_database(pg16)
    restore(pg16, target, backup=backup["uri"], tables=["app.orders"])
    restore(pg16, target, backup=backup["uri"], tables=["app.states"], if_exists="clean")
    assert count(pg16, target, "app.states") == 1
    assert "app.busy_states" not in relations(pg16, target)


def test_a_table_that_is_there_already_is_refused(pg16: Cluster, backup, restore, new_database) -> None:
    target = new_database(
        pg16, "create schema app; create table app.orders (mine int); insert into app.orders values (1)"
    )
    with pytest.raises(AirflowFailException, match=r"already holds relation app\.orders.*with its present"):
        restore(pg16, target, backup=backup["uri"], tables=["app.*"])
    assert count(pg16, target, "app.orders") == 1
    assert "app.customers" not in relations(pg16, target)


def test_excluded_tables_stay_away_with_what_depends_on_them(pg16: Cluster, backup, restore, new_name) -> None:
    target = new_name(pg16)
    done = restore(pg16, target, backup=backup["uri"], exclude_tables=["app.orders"])
    assert (done["tables"], done["rows"]) == (2, 12)
    assert {"app.customers", "public.notes"} <= relations(pg16, target)
    assert relations(pg16, target).isdisjoint({"app.orders", "app.open_orders", "app.orders_state_idx"})


def test_excluded_tables_may_be_some_of_a_schema(pg16: Cluster, backup, restore, new_name) -> None:
    target = new_name(pg16)
    done = restore(pg16, target, backup=backup["uri"], schemas=["app"], exclude_tables=["app.cust*"])
    assert done["rows"] == 5
    assert relations(pg16, target).isdisjoint({"app.customers", "public.notes"})


def test_an_exclusion_that_matches_nothing_is_refused(pg16: Cluster, backup, restore, new_name) -> None:
    with pytest.raises(AirflowFailException, match=r"exclude_tables: 'app.order' matches nothing.*app\.orders"):
        restore(pg16, new_name(pg16), backup=backup["uri"], exclude_tables=["app.order"])


def test_schema_and_data_can_be_restored_one_after_the_other(pg16: Cluster, backup, restore, new_name) -> None:
    target = new_name(pg16)
    done = restore(pg16, target, backup=backup["uri"], schema_only=True)
    assert (done["tables"], done["rows"]) == (0, 0)
    assert count(pg16, target, "app.customers") == 0
    done = restore(pg16, target, backup=backup["uri"], data_only=True, jobs=1)
    assert (done["tables"], done["rows"]) == (3, 17)
    assert count(pg16, target, "app.customers") == 10
    # A retry of the task must not double the rows.
    with pytest.raises(AirflowFailException, match="holds rows already"):
        restore(pg16, target, backup=backup["uri"], data_only=True, jobs=1)
    assert count(pg16, target, "app.customers") == 10


@pytest.mark.parametrize("options", [{}, {"managed_service": True}, {"single_transaction": False}], ids=str)
def test_data_alone_comes_whole_or_not_at_all(pg16: Cluster, backup, restore, new_name, options: dict) -> None:
    target = new_name(pg16)
    restore(pg16, target, backup=backup["uri"], schema_only=True)
    # Of the three tables, this one comes last: the others refer to nothing.
    pg16.psql("alter table app.orders add constraint in_the_way check (id < 0)", target)
    with pytest.raises(Exception, match="in_the_way"):
        restore(pg16, target, backup=backup["uri"], data_only=True, **options)
    stay = 10 if "single_transaction" in options else 0
    assert count(pg16, target, "app.customers") == stay
    pg16.psql("alter table app.orders drop constraint in_the_way", target)
    if stay:
        with pytest.raises(AirflowFailException, match=r"holds rows already: empty it"):
            restore(pg16, target, backup=backup["uri"], data_only=True)
    else:
        done = restore(pg16, target, backup=backup["uri"], data_only=True)
        assert (done["rows"], count(pg16, target, "app.customers")) == (17, 10)


def test_commands_that_fail_take_data_alone_back(pg16: Cluster, backup, restore, new_name) -> None:
    target = new_name(pg16)
    restore(pg16, target, backup=backup["uri"], schema_only=True)
    pg16.psql(f'alter database "{target}" set search_path = app')
    with pytest.raises(Exception, match="no_such"):
        restore(pg16, target, backup=backup["uri"], data_only=True, post_restore_sql="select no_such")
    assert count(pg16, target, "app.customers") == 0
    restore(pg16, target, backup=backup["uri"], data_only=True, post_restore_sql="delete from orders where id > 1")
    assert (count(pg16, target, "app.customers"), count(pg16, target, "app.orders")) == (10, 1)


def test_data_without_tables_is_refused(pg16: Cluster, backup, restore, new_name, new_database) -> None:
    with pytest.raises(AirflowFailException, match=r"data_only: the target database .* does not exist"):
        restore(pg16, new_name(pg16), backup=backup["uri"], data_only=True)
    with pytest.raises(AirflowFailException, match=r"data_only: the table \S+ is not in the target"):
        restore(pg16, new_database(pg16), backup=backup["uri"], data_only=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"schema_only": True, "data_only": True},
        {"if_exists": "clean", "data_only": True},
        {"if_exists": "replace", "exclude_tables": ["notes"]},
        {"exclude_tables": "notes"},
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused(pg16: Cluster, backup, restore, new_database, arguments) -> None:
    with pytest.raises(
        AirflowFailException, match=r"give one of the two|nothing but the selection|must be a list"
    ):
        restore(pg16, new_database(pg16), backup=backup["uri"], **arguments)


def test_a_missing_database_is_created_only_if_that_is_allowed(
    pg16: Cluster, backup, restore, new_name, caplog, monkeypatch
) -> None:
    target = new_name(pg16)
    with pytest.raises(AirflowFailException, match="does not exist: create it"):
        restore(pg16, target, backup=backup["uri"], create_database=False)
    monkeypatch.setattr(PgS3RestoreOperator, "log", logging.getLogger("restore"))
    with caplog.at_level("INFO"):
        restore(pg16, target, backup=backup["uri"])
    assert count(pg16, target, "notes") == 2
    # Otherwise, nothing would tell of a target that was mistyped.
    assert f"created the database '{target}', which did not exist" in caplog.messages
