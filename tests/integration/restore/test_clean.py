"""if_exists="clean": what the backup holds is dropped and restored, in one transaction where that is possible."""

import re
from collections.abc import Callable

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from testkit.database_equality import compare_databases
from testkit.dumps import dump
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.support.sampling import combine

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


@pytest.mark.parametrize("options", [{"jobs": 1}, {}, {"single_transaction": False}], ids=str)
def test_a_failure_leaves_the_old_content_unless_no_transaction_is_asked_for(
    pg16: Cluster, backup, restore, new_database, s3: S3Server, bucket: str, leftovers, capfd, options: dict
) -> None:
    target = new_database(pg16, OLD)
    key = next(key for key in leftovers() if re.search(r"/\d{6}\.zst$", key))
    data = bytearray(s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    data[len(data) * 2 // 3] ^= 1
    s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(data))
    with pytest.raises(Exception, match=r"the data of public\.t"):
        restore(pg16, target, backup=backup["uri"], if_exists="clean", **options)
    said = capfd.readouterr().out
    if options.get("single_transaction", True):
        assert "neither old nor new" not in said
        with pg16.connect(target) as connection:
            assert connection.execute("select * from t").fetchall() == [("old",)]
    else:
        assert "works without a transaction, as single_transaction=False says" in said


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


SHOP = """
create table customers (id serial primary key, name text); insert into customers (name) values ('backed up');
create table orders (id int primary key, customer int references customers); insert into orders values (1, 1);
"""
LATER = """
update customers set name = 'live';
create view "total" as select count(*) from orders;
"""


def state(cluster: Cluster, database: str) -> list[tuple]:
    with cluster.connect(database) as connection:
        return connection.execute(
            "select id::text, name, pg_get_expr(adbin, adrelid) from customers, pg_attrdef union all "
            "select conname, conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint "
            "where connamespace = 'public'::regnamespace order by 1"
        ).fetchall()


DEPENDS = {
    "customers": r"customers_pkey on table public\.customers.*orders_customer_fkey on table public\.orders",
    "orders": r"cannot drop table public\.orders because .*: view public\.total depends on table public",
}


@pytest.mark.parametrize(
    ("table", "options"),
    combine(DEPENDS, [{}, {"single_transaction": False}, {"managed_service": True}], name="what depends"),
    ids=str,
)
def test_what_depends_on_a_table_is_found_before_anything_is_dropped(
    pg16: Cluster, back_up, restore, new_database, table: str, options: dict
) -> None:
    tables, said = [table], DEPENDS[table]
    target = new_database(pg16, SHOP)
    backup = back_up(pg16, target)
    pg16.psql(LATER, target)
    before = state(pg16, target)
    with pytest.raises(AirflowFailException, match=said):
        restore(pg16, target, backup=backup["uri"], if_exists="clean", tables=tables, **options)
    assert state(pg16, target) == before


@pytest.mark.parametrize("options", [{}, {"single_transaction": False}], ids=str)
def test_what_depends_on_what_another_tools_archive_holds_is_found_too(
    pg16: Cluster, small, put, restore, options: dict
) -> None:
    pg16.psql("create view counted as select count(*) from accounts; delete from accounts", small.name)
    with pytest.raises(
        AirflowFailException,
        match=r"Select public\.counted as well.*table public\.accounts .*: view public\.counted depends on",
    ):
        restore(pg16, small.name, backup=put(small.archive("custom")), if_exists="clean", **options)
    assert pg16.psql(
        "select * from counted; select count(*) from pg_indexes where tablename = 'accounts'", small.name
    ).split() == ["0", "2"]


@pytest.mark.parametrize(
    ("options", "has_partition_keys"),
    combine(
        [{}, {"managed_service": True}, {"single_transaction": False}], [False, True], name="nothing is dropped"
    ),
    ids=str,
)
def test_commands_before_another_tools_archive_have_not_happened_where_nothing_is_dropped(
    pg16: Cluster, new_database, put, restore, tmp_path, options: dict, has_partition_keys: bool
) -> None:
    stays = "single_transaction" in options
    partitioned = (
        "create table p (i int primary key) partition by list (i); create table q partition of p default;"
    )
    target = new_database(pg16, "create table t as select 7 as i;" + partitioned * has_partition_keys)
    archive = put(dump(pg16, target, "custom", tmp_path))
    pg16.psql("create view v as select * from t; create table told (said text); delete from t", target)
    tell = "insert into told values ('before')"
    with pytest.raises(AirflowFailException, match=r"view public\.v depends on table public\.t"):
        restore(pg16, target, backup=archive, if_exists="clean", pre_restore_sql=tell, **options)
    assert pg16.psql("select said from told", target).split() == ["before"] * stays
    pg16.psql("truncate told", target)
    restore(pg16, target, backup=archive, if_exists="clean", pre_restore_sql=[tell, "drop view v"], **options)
    assert pg16.psql("select said, i from told, t", target) == "before|7\n"


def test_more_locks_than_the_server_has_change_nothing_and_a_restore_without_a_transaction_takes_fewer(
    pg16: Cluster, back_up, restore, new_database
) -> None:
    source = new_database(
        pg16,
        "do $$ begin for i in 1..1000 loop execute format('create table t%s (i int primary key)', i);"
        " if i % 100 = 0 then commit; end if; end loop; end $$",
    )
    backup = back_up(pg16, source)
    with Cluster(major=16, settings={"max_locks_per_transaction": 10, "max_connections": 12}) as few:
        restore(few, "copy", backup=backup["uri"])
        few.psql("insert into t1 values (1)", "copy")
        with pytest.raises(Exception, match=r"raise max_locks_per_transaction .* single_transaction=False"):
            restore(few, "copy", backup=backup["uri"], if_exists="clean")
        assert few.psql("select i from t1", "copy").strip() == "1"
        restore(few, "copy", backup=backup["uri"], if_exists="clean", single_transaction=False)
        assert few.psql("select count(*) from t1", "copy").strip() == "0"


def test_all_that_depends_on_what_would_be_dropped_is_named_at_once(
    pg16: Cluster, back_up, restore, new_database
) -> None:
    target = new_database(pg16, SHOP)
    backup = back_up(pg16, target)
    pg16.psql(
        LATER + "create materialized view names as select name from customers;"
        "create table notes (customer int references customers); create index on notes (customer);",
        target,
    )
    with pytest.raises(AirflowFailException) as raised:
        restore(pg16, target, backup=backup["uri"], if_exists="clean", tables=["orders", "customers"])
    said = str(raised.value)
    for dependent in (
        "view public.total depends on table public.orders",
        "constraint notes_customer_fkey on table public.notes depends on index public.customers_pkey",
        "materialized view public.names depends on table public.customers",
    ):
        assert said.count(dependent) == 1


def test_what_refers_to_what_refers_to_it_is_named_at_once(pg16: Cluster, back_up, restore, new_database) -> None:
    target = new_database(
        pg16,
        SHOP
        + """
        create table lines (id int primary key, "order" int references orders);
        create table "Big" (line int references lines, itself int unique references "Big" (itself));
        create view summary as select * from orders; create table apart (i int)""",
    )
    backup = back_up(pg16, target)
    with pytest.raises(AirflowFailException) as raised:
        restore(pg16, target, backup=backup["uri"], if_exists="clean", tables=["customers"])
    assert 'Select public."Big", public.lines, public.orders, public.summary as well' in str(raised.value)
    named = ["customers", "Big", "lines", "orders", "summary"]
    restore(pg16, target, backup=backup["uri"], if_exists="clean", tables=named)


def test_a_table_that_lacks_a_column_is_dropped_as_well(pg16: Cluster, back_up, restore, new_database) -> None:
    backup = back_up(pg16, new_database(pg16, SHOP))
    target = new_database(pg16, "create table customers (old int)")
    restore(pg16, target, backup=backup["uri"], if_exists="clean")
    assert pg16.psql("select id, name from customers", target) == "1|backed up\n"


@pytest.mark.parametrize("options", [{}, {"single_transaction": False}], ids=str)
def test_commands_before_it_may_have_characters_that_the_backup_has_not(
    pg16: Cluster, back_up, restore, new_database, options: dict
) -> None:
    source = new_database(
        pg16, "create table t as select chr(233) as a", encoding="LATIN1", locale="C", template="template0"
    )
    target = new_database(pg16, OLD, encoding="UTF8", locale="C", template="template0")
    restore(
        pg16, target, backup=back_up(pg16, source)["uri"], if_exists="clean",
        pre_restore_sql="create table \"→\" as select '→' as a", pre_data_sql='update "→" set a = a || \'€\'',
        **options,
    )  # fmt: skip
    assert pg16.psql('select t.a, "→".a from t, "→"', target) == "é|→€\n"


def test_commands_before_it_in_a_database_without_encoding(pg16: Cluster, back_up, restore, new_database) -> None:
    target = new_database(pg16, OLD, encoding="SQL_ASCII", locale="C", template="template0")
    with pg16.connect(target) as connection:
        connection.execute(b"create table raw as select '\xe9'::text as a")
    backup = back_up(pg16, target)
    restore(
        pg16,
        target,
        backup=backup["uri"],
        if_exists="clean",
        pre_restore_sql="create table told as select '→' as a",
    )
    said = "select told.a, convert_to(raw.a, 'SQL_ASCII') from told, raw"
    assert pg16.psql(said, target) == "→|\\xe9\n"


@pytest.mark.parametrize(
    "options",
    [{"if_exists": "clean"}, {"if_exists": "clean", "single_transaction": False}, {"data_only": True}],
    ids=str,
)
def test_commands_before_it_are_the_logins_and_the_rest_is_the_roles(
    pg16: Cluster, back_up, restore, new_database, options: dict
) -> None:
    pg16.psql("create role keeper")
    source = new_database(pg16, "create table t (i int); insert into t values (7)")
    target = new_database(pg16, "create table told (who text, setting text)")
    pg16.psql(
        "grant all on schema public to keeper; create table t (i int); alter table t owner to keeper", target
    )
    tell = "insert into told values (current_user, current_setting('my.own', true))"
    try:
        restore(
            pg16, target, backup=back_up(pg16, source)["uri"], pg_restore_options=["--role=keeper"], no_owner=True,
            pre_restore_sql=["set my.own = on", tell], pre_data_sql=tell, **options,
        )  # fmt: skip
        is_one_session = options.get("single_transaction", True)
        assert pg16.psql("select * from told", target).splitlines() == [
            f"{pg16.user}|on",
            f"{pg16.user}|{'on' if is_one_session else ''}",
        ]
        owner = "select pg_get_userbyid(relowner), i from pg_class, t where relname = 't'"
        assert pg16.psql(owner, target) == "keeper|7\n"
    finally:
        pg16.psql("drop owned by keeper; drop role keeper", target)
