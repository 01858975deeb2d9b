"""What a restore or a backup leaves out is never lost in silence: not by options, not by a backup of a part."""

import logging
from collections.abc import Iterator

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.dumps import dump
from testkit.postgres import Cluster
from tests.support.sampling import combine, sample

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

FILL = """
create table orders (i int primary key);
insert into orders select generate_series(1, 100);
create schema audit;
create table audit.log (i int);
insert into audit.log values (1), (2);
create unlogged table sessions (i int);
"""


def rows_of(cluster: Cluster, database: str) -> tuple[int, int]:
    with cluster.connect(database) as connection:
        return connection.execute(
            "select (select count(*) from orders), (select count(*) from audit.log)"
        ).fetchone()


@pytest.fixture
def live(pg16: Cluster, new_database) -> Iterator[str]:
    """The name of a live database, all of whose copies are dropped afterwards."""
    name = new_database(pg16, FILL, name="live")
    yield name
    with pg16.connect() as connection:
        found = connection.execute("select datname from pg_database").fetchall()
    for (other,) in found:
        if other.startswith(f"{name}__"):
            pg16.drop_database(other)


SELECTING = [
    (["--schema-only"], "schema_only=True"),
    (["-Os"], "schema_only=True"),
    (["-T", "x"], "restores that object alone"),
    (["--section=pre-data"], "schema_only=True or data_only=True"),
    (["--sect", "post-data"], "schema_only=True or data_only=True"),
    (["-N", "audit"], "exclude_tables="),
]


@pytest.mark.parametrize(
    ("form", "if_exists"),
    sample(
        combine(["ours", "custom", "directory"], ["replace", "clean"], name="options that select"),
        2,
        "options that select",
    ),
)
def test_options_that_select_do_not_empty_a_live_database(
    pg16: Cluster, live: str, back_up, put, restore, tmp_path, form: str, if_exists: str
) -> None:
    uri = back_up(pg16, live)["uri"] if form == "ours" else put(dump(pg16, live, form, tmp_path))
    for words, message in SELECTING:
        with pytest.raises(AirflowFailException, match=f"^pg_restore_options: .*{message}"):
            restore(pg16, live, backup=uri, if_exists=if_exists, pg_restore_options=words)
        assert rows_of(pg16, live) == (100, 2), words


LEAVING_OUT = {
    "--exclude-table-data": (["--exclude-table-data=audit.*"], ["replace", "clean"]),
    "--schema-only": (["-s"], ["replace", "clean"]),
    "--schema": (["-naudit"], ["replace"]),
    "--exclude-table": (["--exclude-table", "orders"], ["replace"]),
    "--no-unlogged-table-data": (["--no-unl"], ["replace", "clean"]),
    "--section": (["--sect=pre-data"], ["replace", "clean"]),
    "--no-large-objects": (["-B"], ["replace"]),
}


@pytest.mark.parametrize("option", sample(list(LEAVING_OUT), 4, "a part"))
def test_a_backup_of_a_part_takes_no_live_databases_place_unless_that_is_meant(
    pg16: Cluster, live: str, back_up, restore, new_name, manifest_of, list_backups, option: str
) -> None:
    words, losing = LEAVING_OUT[option]
    made = back_up(pg16, live, pg_dump_options=["-v", *words])
    assert manifest_of(made).dump.left_out_by == [option]
    assert manifest_of(made).dump.options == ["-v", *words]
    assert made["left_out_by"] == list_backups()[0]["left_out_by"] == [option]
    for if_exists in losing:
        with pytest.raises(AirflowFailException) as caught:
            restore(pg16, live, backup=made["uri"], if_exists=if_exists)
        assert str(caught.value) == (
            f"{made['uri']} lacks what {option} left out of it: with if_exists={if_exists!r} this would be gone "
            f"from {live}. Give allow_partial=True if that is meant, or restore into a database of its own"
        )
        assert rows_of(pg16, live) == (100, 2)
    restore(pg16, new_name(pg16), backup=made["uri"])
    if "clean" not in losing:
        restore(pg16, live, backup=made["uri"], if_exists="clean", jobs=1)
        assert rows_of(pg16, live) == (100, 2)


def test_all_that_is_left_out_is_named(pg16: Cluster, live: str, back_up, restore) -> None:
    made = back_up(pg16, live, pg_dump_options=["-N", "audit", "--exclude-table-data=o*", "-x", "--no-comments"])
    assert made["left_out_by"] == ["--exclude-schema", "--exclude-table-data"]
    with pytest.raises(AirflowFailException, match="lacks what --exclude-schema, --exclude-table-data left out"):
        restore(pg16, live, backup=made["uri"], if_exists="replace")
    with pytest.raises(AirflowFailException, match="lacks what --exclude-table-data left out"):
        restore(pg16, live, backup=made["uri"], if_exists="clean")


@pytest.mark.parametrize(
    "option", sample([name for name in LEAVING_OUT if name != "--section"], 3, "a part is verified")
)
def test_a_backup_of_a_part_is_verified_for_what_it_holds(
    pg16: Cluster, live: str, back_up, connections, spool_dir, option: str
) -> None:
    made = back_up(pg16, live, pg_dump_options=LEAVING_OUT[option][0])
    connections.set("pg_scratch", pg16.airflow_connection("postgres"))
    verified = PgS3VerifyOperator(
        task_id="verify",
        backup=made["uri"],
        postgres_conn_id="pg_scratch",
        aws_conn_id="aws",
        spool_dir=str(spool_dir),
    ).execute(context={})
    assert (verified["outcome"], verified["rows"]) == ("verified", made["rows"])


TIED = """
create table customers (id int primary key, n int);
create unique index by_n on customers (n);
create table orders (
    id int primary key, c int references customers, n int references customers (n), prev int references orders
);
comment on constraint orders_c_fkey on orders is 'no order without a customer';
insert into customers values (1, 10);
insert into orders values (1, 1, 10, null), (2, 1, 10, 1);
create table events (at int primary key) partition by range (at);
create table early partition of events for values from (0) to (10);
create table notes (at int references events);
insert into events values (1);
insert into notes values (1);
create schema shop;
create table shop.lines (order_id int references orders);
insert into shop.lines values (1);
"""
TO_CUSTOMERS = [
    f'FK CONSTRAINT public.orders orders_{column}_fkey: relation "public.customers" does not exist'
    for column in ("c", "n")
]
TO_EVENTS = [
    'TABLE ATTACH public.early: relation "public.events" does not exist',
    'INDEX ATTACH public.early_pkey: relation "public.events_pkey" does not exist',
    'FK CONSTRAINT public.notes notes_at_fkey: relation "public.events" does not exist',
]
TO_ORDERS = ['FK CONSTRAINT shop.lines lines_order_id_fkey: relation "public.orders" does not exist']
ALL_LINKS = {
    "early_pkey", "lines_order_id_fkey", "notes_at_fkey", "orders_c_fkey", "orders_n_fkey", "orders_prev_fkey",
}  # fmt: skip
# What is left out, and which of the links are there.
LOOSE = {
    "--table=public.orders": (TO_CUSTOMERS, {"orders_prev_fkey"}),
    "--exclude-table=customers": (TO_CUSTOMERS, ALL_LINKS - {"orders_c_fkey", "orders_n_fkey"}),
    "--exclude-table=events": (TO_EVENTS, ALL_LINKS - {"early_pkey", "notes_at_fkey"}),
    "--schema=shop": (TO_ORDERS, set()),
    "--exclude-table-data=notes": ([], ALL_LINKS),
}
LINKS = """
select conname from pg_constraint where contype = 'f' and conparentid = 0
union all select inhrelid::regclass::text from pg_inherits where inhrelid::regclass::text = 'early_pkey'
"""


@pytest.fixture
def verify(pg16: Cluster, connections, spool_dir):
    """(URI) → what the verification returns."""
    connections.set("pg_scratch", pg16.airflow_connection("postgres"))

    def run(uri: str):
        return PgS3VerifyOperator(
            task_id="verify", backup=uri, postgres_conn_id="pg_scratch", aws_conn_id="aws",
            spool_dir=str(spool_dir),
        ).execute(context={})  # fmt: skip

    return run


@pytest.mark.parametrize("option", sample(list(LOOSE), 3, "links to what is left out"))
def test_links_to_what_a_backup_lacks_are_left_out_and_named(
    pg16: Cluster, new_database, new_name, back_up, restore, verify, option: str
) -> None:
    made = back_up(pg16, new_database(pg16, TIED), pg_dump_options=[option])
    loose, links = LOOSE[option]
    left_out = [f"left out: {link}" for link in loose]
    verified = verify(made["uri"])
    assert (verified["outcome"], verified["rows"], verified["warnings"]) == ("verified", made["rows"], left_out)
    name = new_name(pg16)
    assert restore(pg16, name, backup=made["uri"])["warnings"] == left_out
    with pg16.connect(name) as connection:
        assert {link for (link,) in connection.execute(LINKS).fetchall()} == links


def test_a_link_is_made_where_the_target_has_what_the_backup_lacks(
    pg16: Cluster, new_database, back_up, restore
) -> None:
    database = new_database(pg16, TIED)
    made = back_up(pg16, database, pg_dump_options=["--table=orders"])
    create = "create table public.customers (id int primary key, n int unique); "
    rows = "insert into public.customers values (1, 10)"
    copy = new_database(pg16, create + rows)
    for tables in ([], ["orders"]):
        pg16.psql("drop table if exists orders", copy)
        assert restore(pg16, copy, backup=made["uri"], tables=tables, if_exists="clean")["warnings"] == []
        assert pg16.psql("select count(*) from pg_constraint where contype = 'f'", copy).strip() == "3"
    # A row without the row that it refers to is not what the backup lacks.
    pg16.psql("drop table orders; delete from customers", copy)
    with pytest.raises(ServerError, match='violates foreign key constraint "orders_c_fkey"'):
        restore(pg16, copy, backup=made["uri"], if_exists="clean")


def test_a_backup_of_a_part_warns_and_is_marked_in_lists(
    pg16: Cluster, live: str, back_up, list_backups, caplog, monkeypatch
) -> None:
    for operator in (PgS3BackupOperator, PgS3ListBackupsOperator):
        monkeypatch.setattr(operator, "log", logging.getLogger(operator.__name__))

    def warnings() -> list[str]:
        return [record.message for record in caplog.records if record.levelname == "WARNING"]

    with caplog.at_level("INFO"):
        back_up(pg16, live, pg_dump_options=["--no-comments"], labels={"release": "1"})
        assert warnings() == []
        back_up(pg16, live, pg_dump_options=["-t", "orders", "--table=x*", "-x"], labels={"release": "2"})
        assert warnings() == [
            "this backup holds a part of the database: --table=orders, --table=x* left out the rest"
        ]
        list_backups(database=live)
    assert [line.rpartition("  ")[2] for line in caplog.messages if "release=" in line] == [
        "partial, release=2", "release=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("if_exists", "meant"), combine(["replace", "clean"], [True, "True"], name="what is meant")
)
def test_what_is_meant_is_done(pg16: Cluster, live: str, back_up, restore, if_exists: str, meant) -> None:
    made = back_up(pg16, live, pg_dump_options=["--exclude-table-data=audit.log"])
    pg16.psql("delete from orders", live)
    restore(pg16, live, backup=made["uri"], if_exists=if_exists, allow_partial=meant)
    assert rows_of(pg16, live) == (100, 0)


def test_a_backup_of_a_whole_database_says_so(pg16: Cluster, live: str, back_up, restore, manifest_of) -> None:
    made = back_up(pg16, live, pg_dump_options=["-Ox", "--no-comments", "--load-via-partition-root"])
    assert manifest_of(made).dump.left_out_by == []
    restore(pg16, live, backup=made["uri"], if_exists="replace")
    assert rows_of(pg16, live) == (100, 2)


@pytest.mark.parametrize(
    ("form", "if_exists"), combine(["custom", "tar", "directory"], ["replace", "clean"], name="without rows")
)
def test_another_tools_archive_without_rows_takes_no_live_databases_place(
    pg16: Cluster, live: str, put, restore, new_name, tmp_path, form: str, if_exists: str
) -> None:
    uri = put(dump(pg16, live, form, tmp_path, "--schema-only"))
    with pytest.raises(AirflowFailException, match=r"holds tables and no rows.*Give allow_partial=True"):
        restore(pg16, live, backup=uri, if_exists=if_exists)
    assert rows_of(pg16, live) == (100, 2)
    restore(pg16, new_name(pg16), backup=uri)
    restore(pg16, live, backup=uri, if_exists=if_exists, allow_partial=True)
    assert rows_of(pg16, live) == (0, 0)


def test_another_tools_archive_of_empty_tables_is_whole(pg16: Cluster, live: str, put, restore, tmp_path) -> None:
    pg16.psql("delete from orders; delete from audit.log", live)
    uri = put(dump(pg16, live, "custom", tmp_path))
    pg16.psql("insert into orders values (7)", live)
    restore(pg16, live, backup=uri, if_exists="replace")
    assert rows_of(pg16, live) == (0, 0)
