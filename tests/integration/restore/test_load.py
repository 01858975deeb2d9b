"""Rows come by COPY of our own sessions: in which order, with which settings, and whole or not at all."""

import os
import signal
import threading
from collections.abc import Callable

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import CopyError, IntegrityError
from airflow_pg_s3.core.restore.load import load
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.load.copy_session import LoadingSession
from airflow_pg_s3.core.restore.load.pg_restore import PgRestore
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster
from tests.conftest import MAJORS
from tests.integration.conftest import only_on
from tests.integration.restore.test_round_trip import EUC_TW, LATIN1, plain_dump
from tests.support.sampling import combine, sample

# None of them travels in a pack.
MAKE = (
    "create table t{n} as select i, md5(i::text) as a, md5((i * 7)::text) as b from generate_series(1, {rows}) i;"
)
ROWS = {1: 20_000, 2: 40_000, 3: 30_000, 4: 50_000}
FILL = "".join(MAKE.format(n=n, rows=rows) for n, rows in ROWS.items())
KEYS = "alter table t2 add primary key (i); create index t2_a on t2 (a); create index t2_b on t2 (b);"
# The tables are in the other order than their foreign keys want.
ORDERS = """
create table customers (id int primary key, leader int references customers);
insert into customers select i, nullif(i - 1, 0) from generate_series(1, 100) i;
create table a_orders (id int primary key, customer int references customers);
insert into a_orders select i, 1 + i % 100 from generate_series(1, 20000) i;
create table a_items (a_order int references a_orders); insert into a_items select id from a_orders;
create table alone (i int); insert into alone values (1);
"""

pytestmark = only_on("moto")


@pytest.fixture
def every_row_by_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables are loaded as large ones are."""
    monkeypatch.setattr(load, "is_large", lambda member: True)


@pytest.fixture
def builds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built of a table is built at once, however small it is."""
    monkeypatch.setattr(load, "_BUILD_AT_ONCE_BYTES", 0)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in this order: the tables that were copied, and the entries of each run of pg_restore."""
    seen: list[str] = []
    copy, run = LoadingSession.copy, PgRestore.run

    def see_copy(session: LoadingSession, table: object, feed: object, *, name: str, is_new: bool) -> None:
        copy(session, table, feed, name=name, is_new=is_new)
        seen.append(f"copied {name}{' frozen' if is_new else ''}")

    def see_run(program: PgRestore, source: object, *, dump_ids: list[int], **keywords: object) -> int:
        bytes_read = run(program, source, dump_ids=dump_ids, **keywords)
        seen.append(f"pg_restore of {len(dump_ids)}")
        return bytes_read

    monkeypatch.setattr(LoadingSession, "copy", see_copy)
    monkeypatch.setattr(PgRestore, "run", see_run)
    return seen


def test_the_largest_tables_come_first_each_with_its_indexes_at_once(
    pg16: Cluster, new_database, back_up, assert_restored, builds_at_once, done
):
    source = new_database(pg16, FILL + KEYS)
    assert_restored(pg16, source, pg16, back_up(pg16, source), jobs=1)
    assert done == [
        "pg_restore of 4",
        "copied public.t4 frozen",
        "copied public.t2 frozen",
        *["pg_restore of 1"] * 3,  # the key, then an index each
        "copied public.t3 frozen",
        "copied public.t1 frozen",
    ]


def test_with_a_managed_service_the_same_tables_are_ours_though_pg_restore_has_not_made_them(
    pg16: Cluster, new_database, back_up, assert_restored, done
):
    source = new_database(pg16, FILL + "create table small as select 1 as i;")
    assert_restored(pg16, source, pg16, back_up(pg16, source), jobs=1, managed_service=True)
    assert [what for what in done if what.startswith("copied")] == [
        f"copied public.t{n} frozen" for n in (4, 2, 3, 1)
    ]


@pytest.mark.parametrize(
    ("postgres", "jobs"),
    sample(combine(MAJORS, [1, 4], name="all that is hard"), 1, "all that is hard"),
    indirect=["postgres"],
)
def test_all_that_is_hard_comes_back_by_copy_alone(
    postgres: Cluster, hard_database, back_up, assert_restored, every_row_by_copy, builds_at_once, done, jobs: int
):
    database = hard_database(postgres)
    made = back_up(postgres, database)
    assert_restored(postgres, database, postgres, made, jobs=jobs)
    copied = [what for what in done if what.startswith("copied")]
    assert len(copied) == made["tables"]
    # Tables of extensions, foreign ones, and partitions that are loaded through their root, are not truncated.
    assert 0 < len([what for what in copied if not what.endswith("frozen")]) < 50


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("LATIN1", LATIN1),
        ("EUC_TW", EUC_TW),
        (
            "SQL_ASCII",
            r"""do $$ begin
                execute format('create table %1$I as select 1 as %1$I', convert_from('\xe9', 'SQL_ASCII'));
            end $$; create table t as select convert_from('\xe9ff', 'SQL_ASCII') as a""",
        ),
    ],
)
def test_names_and_rows_in_other_encodings_come_by_copy(
    pg18: Cluster, new_database, new_name, back_up, restore, every_row_by_copy, done, encoding: str, content: str
):
    database = new_database(pg18, content, encoding=encoding, locale="C", template="template0")
    made = back_up(pg18, database)
    copy = new_name(pg18, "copy")
    restore(pg18, copy, backup=made["uri"])
    assert plain_dump(pg18, copy) == plain_dump(pg18, database)
    copied = [what for what in done if what.startswith("copied")]
    # psycopg cannot speak EUC_TW: its tables are left to pg_restore.
    assert len(copied) == (0 if encoding == "EUC_TW" else made["tables"])


def test_latin1_is_loaded_into_utf8(pg18: Cluster, new_database, back_up, restore, every_row_by_copy):
    source = new_database(pg18, LATIN1, encoding="LATIN1", locale="C", template="template0")
    target = new_database(pg18, encoding="UTF8", template="template0")
    restore(pg18, target, backup=back_up(pg18, source)["uri"])
    rows = 'select * from "schéma"."café £" order by "prénom Ñ" collate "C"'
    with pg18.connect(source) as before, pg18.connect(target) as after:
        assert before.execute(rows).fetchall() == after.execute(rows).fetchall() != []


@pytest.mark.parametrize(
    ("single_transaction", "first"), [(True, "copied public.alone"), (False, "pg_restore of 1")]
)
def test_data_alone_comes_in_the_order_of_foreign_keys(
    pg16: Cluster, new_database, back_up, restore, done, single_transaction: bool, first: str
):
    source = new_database(pg16, ORDERS)
    backup = back_up(pg16, source)
    target = new_database(pg16)
    restore(pg16, target, backup=backup["uri"], schema_only=True)
    done.clear()
    restore(pg16, target, backup=backup["uri"], data_only=True, jobs=3, single_transaction=single_transaction)
    assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []
    # Without the transaction, what no foreign key is about is left to pg_restore. Nothing is truncated.
    assert done == [
        first,
        "copied public.customers",
        "copied public.a_orders",
        "copied public.a_items",
    ]


def test_foreign_keys_in_a_circle_are_an_error_that_names_the_way_out(
    pg16: Cluster, new_database, back_up, restore
):
    source = new_database(
        pg16,
        "create table a (id int primary key, b int); create table b (id int primary key, a int references a);"
        "alter table a add foreign key (b) references b; insert into a values (1, null);"
        "insert into b values (1, 1); update a set b = 1;",
    )
    backup = back_up(pg16, source)
    target = new_database(pg16)
    restore(pg16, target, backup=backup["uri"], schema_only=True)
    message = r"foreign keys of public\.a and public\.b refer to each other.*--disable-triggers"
    with pytest.raises(AirflowFailException, match=message):
        restore(pg16, target, backup=backup["uri"], data_only=True)
    assert pg16.psql("select count(*) from a", target) == "0\n"
    restore(pg16, target, backup=backup["uri"], data_only=True, pg_restore_options=["--disable-triggers"])
    assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []


# Each partition of "fk" refers to one of "pk", which comes behind it by name and by size.
PARTITIONED = """
create table pk (i int primary key) partition by range (i);
create table z1 partition of pk for values from (0) to (10);
create table z2 partition of pk for values from (10) to (20);
create table fk (i int references pk, filler text) partition by range (i);
create table a1 partition of fk for values from (0) to (10);
create table a2 partition of fk for values from (10) to (20);
insert into pk select i from generate_series(0, 19) i;
insert into fk select i % 20, repeat('x', 50) from generate_series(1, 20000) i;
"""


def test_data_alone_comes_in_the_order_of_foreign_keys_between_partitioned_tables(
    pg16: Cluster, new_database, back_up, restore, done
):
    source = new_database(pg16, PARTITIONED)
    backup = back_up(pg16, source)
    target = new_database(pg16)
    restore(pg16, target, backup=backup["uri"], schema_only=True)
    done.clear()
    restore(pg16, target, backup=backup["uri"], data_only=True)
    assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []
    assert sorted(done[:2]) == ["copied public.z1", "copied public.z2"]


def test_foreign_keys_of_the_target_whose_names_the_archive_cannot_hold_are_no_obstacle(
    pg18: Cluster, new_database, back_up, restore
):
    source = new_database(
        pg18, "create table t as select 1 as i", encoding="LATIN1", locale="C", template="template0"
    )
    backup = back_up(pg18, source)
    target = new_database(
        pg18,
        "create table t (i int); create table 価格 (i int primary key);create table 注文 (i int references 価格);",
        encoding="UTF8",
        template="template0",
    )
    restore(pg18, target, backup=backup["uri"], data_only=True)
    assert pg18.psql("select i from t", target) == "1\n"


READS_ANOTHER = """
create table rates (id int primary key, rate int); insert into rates select i, 7 from generate_series(1, 20000) i;
create table orders (i int, rate_id int, note text);
insert into orders select i, i, repeat('x', 50) from generate_series(1, 20000) i;
create function rate_of(int) returns int immutable language sql
    return (select rate from public.rates where id = $1);
create index by_rate on orders (rate_of(rate_id));
"""


def test_an_index_that_reads_another_table_is_built_when_that_is_loaded(
    pg16: Cluster, new_database, new_name, back_up, restore, builds_at_once
):
    source = new_database(pg16, READS_ANOTHER)
    target = new_name(pg16)
    restore(pg16, target, backup=back_up(pg16, source)["uri"], jobs=1)
    count = "set enable_seqscan = off; select count(*) from orders where rate_of(rate_id) = 7"
    assert pg16.psql(count, target) == pg16.psql(count, source) == "20000\n"


@pytest.mark.parametrize("options", [["--disable-triggers"], ["--disable-trig", "-S", "postgres"]])
def test_triggers_do_not_fire_where_they_are_disabled(
    pg16: Cluster, new_database, back_up, restore, every_row_by_copy, options: list[str]
):
    source = new_database(
        pg16,
        "create table t (i int); insert into t values (1);"
        "create function twice() returns trigger language plpgsql as"
        " $$ begin new.i := 2 * new.i; return new; end $$;"
        "create trigger twice before insert on t for each row execute function twice();",
    )
    backup = back_up(pg16, source)
    target = new_database(pg16)
    restore(pg16, target, backup=backup["uri"], schema_only=True)
    restore(pg16, target, backup=backup["uri"], data_only=True, pg_restore_options=options)
    assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []


def test_rows_are_loaded_by_the_role_that_is_given(
    pg16: Cluster, new_database, back_up, restore, every_row_by_copy
):
    pg16.psql("do $$ begin create role load_loader; exception when duplicate_object then null; end $$")
    source = new_database(
        pg16, "create table t (i int, who name default current_user); insert into t values (1, '')"
    )
    backup = back_up(pg16, source)
    target = new_database(pg16)
    pg16.psql(
        f'grant create on schema public to load_loader; grant create on database "{target}" to load_loader', target
    )
    restore(pg16, target, backup=backup["uri"], pg_restore_options=["--role", "load_loader"], no_owner=True)
    assert pg16.psql("select tableowner from pg_tables where tablename = 't'", target) == "load_loader\n"
    assert pg16.psql("select count(*) from t", target) == "1\n"


def test_a_role_that_may_not_load_fails_the_task(pg16: Cluster, new_database, back_up, restore, every_row_by_copy):
    pg16.psql("do $$ begin create role load_stranger; exception when duplicate_object then null; end $$")
    source = new_database(pg16, "create table t as select 1 as i")
    backup = back_up(pg16, source)
    target = new_database(pg16)
    restore(pg16, target, backup=backup["uri"], schema_only=True)
    with pytest.raises(CopyError, match=r"the rows of public\.t could not be loaded \(42501\)"):
        restore(pg16, target, backup=backup["uri"], data_only=True, pg_restore_options=["--role=load_stranger"])


RLS = """
create table t (i int); insert into t select i from generate_series(1, 10) i;
alter table t enable row level security; create policy p on t for all using (i > 5);
alter table t force row level security;
"""


def test_row_security_is_not_heeded_without_the_option(
    pg16: Cluster, new_database, back_up, restore, every_row_by_copy
):
    pg16.psql("do $$ begin create role load_guarded; exception when duplicate_object then null; end $$")
    source = new_database(pg16, RLS)
    backup = back_up(pg16, source)
    target = new_database(pg16)
    restore(pg16, target, backup=backup["uri"], schema_only=True)
    pg16.psql("grant insert on t to load_guarded; grant usage on schema public to load_guarded", target)
    guarded = ["--role=load_guarded"]
    with pytest.raises(CopyError, match="row-level security"):
        restore(pg16, target, backup=backup["uri"], data_only=True, pg_restore_options=guarded)
    with pytest.raises(CopyError, match="COPY FROM not supported with row-level security"):
        restore(
            pg16, target, backup=backup["uri"], data_only=True,
            pg_restore_options=[*guarded, "--enable-row-security"],
        )  # fmt: skip
    assert pg16.psql("select count(*) from t", target) == "0\n"
    restore(pg16, target, backup=backup["uri"], data_only=True)
    assert pg16.psql("select count(*) from t", target) == "10\n"


def test_a_row_that_the_server_refuses_is_named_and_not_shown(
    pg16: Cluster, new_database, back_up, restore, every_row_by_copy
):
    source = new_database(pg16, "create table t (secret text); insert into t values ('the-row-is-secret')")
    backup = back_up(pg16, source)
    target = new_database(pg16, "create table t (secret text check (secret is null))")
    with pytest.raises(CopyError, match=r"the rows of public\.t could not be loaded \(23514\)") as caught:
        restore(pg16, target, backup=backup["uri"], data_only=True)
    assert "the-row-is-secret" not in f"{caught.value} {caught.value.__cause__}"
    assert pg16.psql("select count(*) from t", target) == "0\n"


LARGE_OBJECTS = """
select lo_from_bytea(1000 + i, convert_to(md5(i::text), 'UTF8')) from generate_series(1, 1200) i;
select lo_create(900), lo_from_bytea(4000000000, 'x');
select lo_from_bytea(901, convert_to(repeat('0123456789', 1000000), 'UTF8'));
"""


@pytest.mark.parametrize(
    ("postgres", "jobs"),
    sample(combine(MAJORS, [1, 3], name="large objects"), 1, "large objects"),
    indirect=["postgres"],
)
def test_large_objects_come_back(postgres: Cluster, new_database, back_up, assert_restored, jobs: int):
    source = new_database(postgres, LARGE_OBJECTS)
    assert_restored(postgres, source, postgres, back_up(postgres, source), jobs=jobs)


def test_a_large_object_that_breaks_off_is_empty(
    pg18: Cluster, new_database, back_up, restore, monkeypatch: pytest.MonkeyPatch
):
    source = new_database(pg18, LARGE_OBJECTS)
    backup = back_up(pg18, source)
    target = new_database(pg18)
    read = ArchiveFolder.read

    def break_off(archive: ArchiveFolder, member, write: Callable[[bytes], object]) -> None:
        def take(chunk: bytes) -> None:
            write(chunk)
            if not member.packed:
                raise IntegrityError("breaks off")

        read(archive, member, take)

    monkeypatch.setattr(ArchiveFolder, "read", break_off)
    with pytest.raises(IntegrityError, match="breaks off"):
        restore(pg18, target, backup=backup["uri"])
    assert pg18.psql("select length(lo_get(901)) = 0", target) == "t\n"


@pytest.mark.parametrize(
    ("after_bytes", "jobs"), combine([1, 3_000_000, 9_000_000], [1, 2], name="a session that is lost")
)
def test_a_session_that_is_lost_in_the_midst_of_a_copy_leaves_the_table_empty(
    pg16: Cluster, new_database, back_up, restore, monkeypatch: pytest.MonkeyPatch, after_bytes: int, jobs: int
):
    source = new_database(pg16, FILL)
    backup = back_up(pg16, source)
    target = new_database(pg16)
    read, over, seen = ArchiveFolder.read, threading.Event(), [0]

    def read_and_kill(archive: ArchiveFolder, member, write: Callable[[bytes], object]) -> None:
        def take(chunk: bytes) -> None:
            write(chunk)
            seen[0] += len(chunk)
            if seen[0] >= after_bytes and not over.is_set():
                over.set()
                with pg16.connect() as connection:
                    rows = connection.execute(
                        "select pid from pg_stat_activity where datname = %s and query like 'COPY%%'", [target]
                    ).fetchall()
                # Not SIGKILL, after which the whole server would recover.
                os.kill(rows[0][0], signal.SIGTERM)

        read(archive, member, take)

    monkeypatch.setattr(ArchiveFolder, "read", read_and_kill)
    with pytest.raises(CopyError, match="could not be loaded"):
        restore(pg16, target, backup=backup["uri"], jobs=jobs)
    assert over.is_set()
    counts = {n: int(pg16.psql(f"select count(*) from t{n}", target)) for n in ROWS}
    assert all(counts[n] in (0, ROWS[n]) for n in ROWS), counts
    assert 0 in counts.values()


def test_a_large_object_of_any_size_comes_in_pieces(
    pg18: Cluster, new_database, back_up, assert_restored, monkeypatch: pytest.MonkeyPatch
):
    source = new_database(pg18, "select lo_from_bytea(901, convert_to(repeat('0123456789', 5000000), 'UTF8'))")
    backup = back_up(pg18, source)
    sizes: list[int] = []
    read = ArchiveFolder.read

    def see(archive: ArchiveFolder, member, write: Callable[[bytes], object]) -> None:
        def take(chunk: bytes) -> None:
            if not member.packed:
                sizes.append(len(chunk))
            write(chunk)

        read(archive, member, take)

    monkeypatch.setattr(ArchiveFolder, "read", see)
    assert_restored(pg18, source, pg18, backup)
    # A chunk is twice as long as the average at most.
    assert (sum(sizes), max(sizes)) == (50_000_000, 2 << 20)


def test_rows_of_foreign_tables_are_loaded_into_them(
    pg15: Cluster, new_database, new_name, back_up, restore, every_row_by_copy, done
):
    far = new_database(pg15, "create table t (i int); insert into t values (1), (2)", name="far")
    source = new_database(
        pg15,
        "create extension postgres_fdw;"
        "create server far foreign data wrapper postgres_fdw"
        f" options (host '{pg15.host}', port '{pg15.port}', dbname '{far}');"
        f"create user mapping for postgres server far options (user 'postgres', password '{pg15.password}');"
        "create foreign table t (i int) server far;",
    )
    backup = back_up(pg15, source, jobs=1, pg_dump_options=["--include-foreign-data=far"])
    pg15.psql("truncate t", far)
    restore(pg15, new_name(pg15), backup=backup["uri"])
    assert pg15.psql("select string_agg(i::text, ',' order by i) from t", far) == "1,2\n"
    assert "copied public.t" in done
