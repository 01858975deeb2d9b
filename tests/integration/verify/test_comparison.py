"""A restored database is compared with its backup: equal where it is, and whatever was changed in it is named."""

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_pg_s3.core.errors import Cancelled, PgS3Error
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.postgres.archive.toc import TOC
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.requests import parse_uri
from airflow_pg_s3.core.verify.comparison.compare import Comparison, RestoredDatabase, compare
from airflow_pg_s3.core.workspace.workspace import Workspace
from testkit.databases import create_hard_roles
from testkit.postgres import Cluster, installations
from testkit.s3 import S3Server
from tests.integration.conftest import only_on
from tests.integration.restore.test_round_trip import EUC_TW, LATIN1
from tests.support.sampling import sample

LOG = logging.getLogger("comparison")


def parameters(cluster: Cluster, database: str, **others: str) -> ConnectionParameters:
    return ConnectionParameters(database=database, keywords=cluster.keywords | others)


@pytest.fixture
def compare_with(s3: S3Server, spool_dir: Path) -> Callable[..., Comparison]:
    """(backup, cluster, database, connection={…}, **arguments of compare) → how it compares with the backup."""

    def run(backup: dict, cluster: Cluster, database: str, **arguments: object) -> Comparison:
        client = s3.client()
        manifest, base, _ = read_manifest(client, backup["uri"])
        tools = client_versions.for_restore(
            dumped_by=manifest.dump.pg_dump_version,
            target_version=cluster.major * 10000,
            search=[str(folder) for folder in installations().values()],
        )
        target = parameters(cluster, database, **arguments.pop("connection", {}))
        bucket = parse_uri(backup["uri"], parameter="backup")[0]
        with_roles = arguments.pop("with_roles", True)
        restored = RestoredDatabase(params=target, tools=arguments.pop("tools", tools), with_roles=with_roles)
        defaults = {"jobs": 2, "locate": True, "cancel": threading.Event()}
        with (
            Workspace(str(spool_dir)) as workspace,
            Downloader(client, bucket, cancel=threading.Event()) as downloader,
        ):
            archive = ArchiveFolder(manifest, base, downloader, Decoder(manifest.encryption), workspace)
            archive.fetch([TOC])
            return compare(archive, restored, **defaults | arguments, log=LOG)

    return run


@pytest.mark.parametrize(
    ("source_major", "target_major"),
    sample([(15, 15), (15, 18), (16, 16), (16, 18), (18, 18)], 1, "comparison of the hard database"),
)
@only_on("moto")
def test_the_restored_hard_database_is_equal(
    cluster_of: Callable[[int], Cluster],
    source_major: int,
    target_major: int,
    hard_database,
    portable_hard_database,
    back_up,
    restore,
    new_name,
    members_of,
    compare_with,
):
    source, target = cluster_of(source_major), cluster_of(target_major)
    database = (hard_database if source is target else portable_hard_database)(source)
    copy = new_name(target, "copy")
    create_hard_roles(target)
    made = back_up(source, database)
    restore(target, copy, backup=made["uri"])
    comparison = compare_with(made, target, copy)
    assert comparison.differences == []
    assert comparison.warnings == []
    tables = [member.table for member in members_of(made) if member.table is not None]
    assert [(t.schema_name, t.name, t.rows_expected, t.rows_found, t.matches) for t in comparison.tables] == [
        (table.schema_name, table.name, table.rows, table.rows, True) for table in tables
    ]
    assert sum(table.rows_found for table in comparison.tables) == made["rows"]


# -- tampering ----------------------------------------------------------------------------------------------------

SHOP = r"""
create extension vector;
create type size as enum ('small', 'large');
create type mood as enum ('sad', 'ok', 'happy');
create table customers (id int primary key, name text default 'nobody' not null, note text, weight float8,
    at timestamptz, amount numeric(12, 2), shirt size default 'small');
insert into customers select i, 'name ' || i, case when i % 3 = 0 then '' end, i / 7.0::float8,
    timestamptz '2024-01-01 00:00:00.000001+00' + i * interval '1 hour', i * 1.5, 'large'
    from generate_series(1, 1000) i;
alter table customers add constraint positive check (id > 0), add constraint light check (weight < 1e6);
create index customers_name on customers (name);
create table orders (id bigint generated always as identity primary key, customer int, total int,
    constraint orders_customer foreign key (customer) references customers);
insert into orders (customer, total) select i % 500 + 1, i from generate_series(1, 60000) i;
create table large as select i, repeat(md5(i::text), 4) as t from generate_series(1, 60000) i;
create table empty (i int);
create table pairs_of_rows (i int); insert into pairs_of_rows values (1), (2);
create table left_out (i int); insert into left_out values (1);
create sequence counter; select setval('counter', 77);
create function doubled(int) returns int language sql as 'select $1 * 2';
create function stamp() returns trigger language plpgsql as $$
begin
    -- a comment in the body

    new.note := 'stamped'; return new;
end $$;
create trigger stamps before insert on customers for each row execute function stamp();
create view rich as select * from customers where amount > 100;
create materialized view totals as select customer, sum(total) from orders group by customer;
create materialized view unfilled as select 1 with no data;
comment on table customers is 'people who buy';
comment on column customers.name is 'as they say it';
grant select on customers to lab_reader;
grant update (note) on customers to lab_reader;
alter table empty owner to lab_owner;
alter default privileges grant select on tables to lab_reader;
create table secrets (tenant name, secret text); insert into secrets values ('lab_reader', 'x');
alter table secrets enable row level security;
create policy own on secrets using (tenant = current_user);
create rule quiet as on delete to secrets do instead nothing;
create table events (at date, what text) partition by range (at);
create table events_2023 partition of events for values from ('2023-01-01') to ('2024-01-01');
create table events_2024 partition of events for values from ('2024-01-01') to ('2025-01-01');
insert into events select date '2023-01-01' + i, 'event ' || i from generate_series(0, 700) i;
create table moods (id int, mood mood) partition by hash (mood);
create table moods_0 partition of moods for values with (modulus 2, remainder 0);
create table moods_1 (mood mood, id int);
alter table moods attach partition moods_1 for values with (modulus 2, remainder 1);
insert into moods select i, m from generate_series(1, 100) i, unnest(enum_range(null::mood)) m;
create table parent (a int); create table child (b int) inherits (parent);
alter table parent add column c int; insert into child values (1, 2, 3);
create statistics pairs on customer, total from orders;
set client_min_messages = error;
create publication everything for table customers;
select lo_from_bytea(5001, 'first'), lo_create(5003);
select lo_from_bytea(5002, convert_to(repeat('second', 900000), 'UTF8'));
comment on large object 5001 is 'it''s the \first';
grant select on large object 5001 to lab_reader;
alter large object 5002 owner to lab_owner;
"""
CUSTOMERS = "public.customers"
# What is done to the restored database; kind and name of what must be found; what must be told of it.
TAMPERING = {
    "a flipped byte in a text": (
        "update customers set name = 'nAme 600' where id = 600",
        ("table", CUSTOMERS, "not those of the source.*the first difference is in row 600$"),
    ),
    "one row less": (
        "delete from customers where id = 600",
        ("table", CUSTOMERS, "^1000 rows expected, 999 found; the first difference is in row 600$"),
    ),
    "one row more": (
        "insert into customers (id) values (1001)",
        ("table", CUSTOMERS, "^1000 rows expected, 1001 found; the first difference is in row 1001$"),
    ),
    "the last row of a large table": (
        "delete from large where i = 60000",
        ("table", "public.large", "^60000 rows expected, 59999 found; the first difference is in row 60000$"),
    ),
    "two values swapped between rows": (
        "update large set i = case i when 41000 then 42000 else 41000 end where i in (41000, 42000)",
        ("table", "public.large", "row 41000$"),
    ),
    # A restore loads rows in the order of the dump: another one has another cause.
    "two rows swapped": (
        "create temp table t as select * from pairs_of_rows order by i desc;"
        "truncate pairs_of_rows; insert into pairs_of_rows select * from t",
        ("table", "public.pairs_of_rows", "in another order; the first difference is in row 1$"),
    ),
    "an empty text for null": (
        "update customers set note = '' where id = 601",
        ("table", CUSTOMERS, "row 601$"),
    ),
    "the last digit of a float": (
        "update customers set weight = weight + 1e-13 where id = 700",
        ("table", CUSTOMERS, "row 700$"),
    ),
    "a microsecond": (
        "update customers set at = at + interval '1 microsecond' where id = 701",
        ("table", CUSTOMERS, "row 701$"),
    ),
    "a value that cannot be read": (
        "delete from pg_enum where enumlabel = 'large'",
        ("table", CUSTOMERS, "^cannot be read: invalid internal value for enum"),
    ),
    "a truncated table": (
        "truncate orders",
        ("table", "public.orders", "^60000 rows expected, 0 found; the first difference is in row 1$"),
    ),
    "a missing table": ("drop table orders cascade", ("table", "public.orders", "^is missing$")),
    "a lost column": (
        "alter table customers drop column note cascade",
        ("table", CUSTOMERS, "^has no column note$"),
    ),
    "rows where the backup has none": (
        "insert into left_out values (1)",
        ("table", "public.left_out", "holds no rows"),
    ),
    "an additional table": (
        "create table more as select 1",
        ("table", "public.more", "holds no rows"),
        ("schema", "TABLE public.more", "^is not in the source$"),
    ),
    "a lost row of a partition": (
        "delete from events where at = '2023-05-05'",
        ("table", "public.events_2023", "^365 rows expected, 364 found; the first difference is in row 125$"),
    ),
    "a changed row below a root": (
        "update moods set id = 1000 where id = 7 and mood = 'ok'",
        ("table", "public.moods", "^its 300 rows over all partitions are not those of the source$"),
    ),
    "a lost row below a root": (
        "delete from moods where id = 7 and mood = 'ok'",
        ("table", "public.moods", "^300 rows expected over all partitions, 299 found$"),
    ),
    "a sequence that is off by one": (
        "select setval('counter', 78)",
        ("sequence", "public.counter", r"^last value 77 \(used\) expected, last value 78 \(used\) found$"),
    ),
    "a sequence whose last value is free": (
        "select setval('counter', 77, false)",
        ("sequence", "public.counter", r"^last value 77 \(used\) expected, last value 77 \(not used yet\) found$"),
    ),
    "a sequence of an identity column": (
        "alter table orders alter id restart",
        ("sequence", "public.orders_id_seq", "last value 1 "),
    ),
    "a missing sequence": ("drop sequence counter", ("sequence", "public.counter", "^is missing$")),
    "a missing index": ("drop index customers_name", ("schema", "INDEX public.customers_name", "^is missing$")),
    "an index on another column": (
        "drop index customers_name; create index customers_name on customers (note)",
        ("schema", "INDEX public.customers_name", r"-CREATE INDEX .*\(name\);\n\+CREATE INDEX .*\(note\);"),
    ),
    "a changed type": (
        "drop materialized view totals; alter table orders alter total type bigint",
        ("schema", "TABLE public.orders", r"-    total integer\n\+    total bigint"),
    ),
    "a lost default": (
        "alter table customers alter name drop default",
        ("schema", "TABLE public.customers", "-    name text DEFAULT"),
    ),
    "a lost not null": (
        "alter table customers alter name drop not null",
        ("schema", "TABLE public.customers", "-    name text DEFAULT 'nobody'::text NOT NULL"),
    ),
    "a lost check": (
        "alter table customers drop constraint positive",
        ("schema", "TABLE public.customers", "-    CONSTRAINT positive CHECK"),
    ),
    "a lost key": (
        "alter table orders drop constraint orders_pkey",
        ("schema", "CONSTRAINT public.orders orders_pkey", "^is missing$"),
    ),
    "a check that is not valid": (
        "alter table customers drop constraint light, add constraint light check (weight < 1e6) not valid",
        ("schema", "CHECK CONSTRAINT public.customers light", "^is not in the source$"),
    ),
    "a foreign key that is not valid": (
        "alter table orders drop constraint orders_customer;"
        "alter table orders add constraint orders_customer foreign key (customer) references customers not valid",
        ("schema", "FK CONSTRAINT public.orders orders_customer", "NOT VALID"),
    ),
    "a disabled trigger": (
        "alter table customers disable trigger stamps",
        ("schema", "TRIGGER public.customers stamps", r"\+ALTER TABLE public.customers DISABLE TRIGGER stamps"),
    ),
    "a changed function": (
        "create or replace function doubled(int) returns int language sql as 'select $1 * 3'",
        ("schema", "FUNCTION public.doubled(integer)", r"\* 2.*\n.*\* 3"),
    ),
    "a comment in a function's body": (
        "create or replace function stamp() returns trigger language plpgsql as $$\n"
        "begin\n    -- another comment\n\n    new.note := 'stamped'; return new;\nend $$",
        ("schema", "FUNCTION public.stamp()", "-    -- a comment in the body\n[+]    -- another comment"),
    ),
    "a changed view": (
        "create or replace view rich as select * from customers where amount > 101",
        ("schema", "VIEW public.rich", r"\(100\)"),
    ),
    "a lost rule": ("drop rule quiet on secrets", ("schema", "RULE public.secrets quiet", "^is missing$")),
    "lost statistics": ("drop statistics pairs", ("schema", "STATISTICS public.pairs", "^is missing$")),
    "a lost comment": (
        "comment on table customers is null",
        ("schema", "COMMENT of TABLE public.customers", "^is missing$"),
    ),
    "a changed comment": (
        "comment on column customers.name is 'other'",
        ("schema", "COMMENT of COLUMN public.customers.name", "other"),
    ),
    "lost privileges": (
        "revoke all on customers from lab_reader",
        ("schema", "ACL of TABLE public.customers", "^is missing$"),
    ),
    "additional privileges": (
        "grant insert on secrets to public",
        ("schema", "ACL of TABLE public.secrets", r"\+GRANT INSERT ON TABLE public.secrets TO PUBLIC;"),
    ),
    "lost default privileges": (
        "alter default privileges revoke select on tables from lab_reader",
        ("schema", "DEFAULT ACL DEFAULT PRIVILEGES FOR TABLES", "^is missing$"),
    ),
    "another owner": (
        "alter table empty owner to postgres",
        ("schema", "TABLE public.empty", r"-ALTER TABLE public.empty OWNER TO lab_owner;\n\+"),
    ),
    "row security off": (
        "alter table secrets disable row level security",
        ("schema", "ROW SECURITY public.secrets", "^is missing$"),
    ),
    "a lost policy": ("drop policy own on secrets", ("schema", "POLICY public.secrets own", "^is missing$")),
    "one more label of an enum": (
        "alter type size add value 'huge'",
        ("schema", "TYPE public.size", r"\+    'huge'"),
    ),
    "a detached partition": (
        "alter table events detach partition events_2023",
        ("schema", "TABLE ATTACH public.events_2023", "^is missing$"),
    ),
    "another storage": (
        "alter table customers alter note set storage external",
        ("schema", "TABLE public.customers", "SET STORAGE EXTERNAL"),
    ),
    "an unlogged table": (
        "alter table empty set unlogged",
        ("schema", "TABLE public.empty", r"\+CREATE UNLOGGED TABLE"),
    ),
    "another access method": (
        "create access method other type table handler heap_tableam_handler;"
        "alter table empty set access method other",
        ("schema", "TABLE public.empty", "-- access method heap\n[+]-- access method other"),
    ),
    "a publication of less": (
        "alter publication everything drop table customers",
        ("schema", "PUBLICATION TABLE public.everything customers", "^is missing$"),
    ),
    "a lost extension": ("drop extension vector", ("extension", "vector", "^is missing$")),
    "the procedural language is gone": (
        "drop extension plpgsql cascade",
        ("extension", "plpgsql", "^is missing$"),
    ),
    "a view that is not filled": (
        "refresh materialized view totals with no data",
        ("table", "public.totals", "^the materialized view is not filled$"),
    ),
    "a view that is filled": (
        "refresh materialized view unfilled",
        ("table", "public.unfilled", "^the materialized view is filled, unlike in the source$"),
    ),
    "a byte of a large object": (
        "select lo_put(5001, 2, 'R')",
        ("large object", "5001", "^its 5 bytes are not those of the source$"),
    ),
    "a byte of a very large object": (
        "select lo_put(5002, 5300000, 'X')",
        ("large object", "5002", "^its 5400000 bytes are not those of the source$"),
    ),
    "a longer large object": (
        "select lo_put(5003, 0, 'xyz')",
        ("large object", "5003", "^0 bytes expected, more found$"),
    ),
    "a lost large object": ("select lo_unlink(5001)", ("large object", "5001", "^is missing$")),
    "an additional large object": (
        "select lo_create(5004)",
        ("large object", "5004", "^is not in the source$"),
    ),
    "a large object's comment": (
        "comment on large object 5001 is 'other'",
        ("large object", "5001", "^comment .* expected, 'other' found$"),
    ),
    "a large object's owner": ("alter large object 5002 owner to postgres", ("large object", "5002", "^owner ")),
    "a large object's privileges": (
        "revoke all on large object 5001 from lab_reader",
        ("large object", "5001", "^privileges .*SELECT lab_reader.* expected"),
    ),
}


@only_on("moto")
def test_whatever_was_changed_in_the_restored_database_is_found_and_named(
    pg18_with_vector: Cluster, back_up, restore, new_database, new_name, compare_with
):
    pg18 = pg18_with_vector
    create_hard_roles(pg18)
    made = back_up(pg18, new_database(pg18, SHOP, name="shop"), pg_dump_options=["--exclude-table-data=left_out"])
    restored = new_name(pg18, "restored")
    restore(pg18, restored, backup=made["uri"])
    assert compare_with(made, pg18, restored).differences == []
    not_found = {}
    for tampering in in_batches(TAMPERING):
        copy = new_name(pg18, "tampered")
        pg18.create_database(copy, template=restored)
        pg18.psql(";\n".join(TAMPERING[title][0] for title in tampering), copy)
        differences = compare_with(made, pg18, copy).differences
        for title in tampering:
            for kind, name, detail in TAMPERING[title][1:]:
                if not any((d.kind, d.name) == (kind, name) and re.search(detail, d.detail) for d in differences):
                    not_found[title] = differences
        pg18.drop_database(copy)
    assert not_found == {}


# What is tampered with; a table goes with what depends on it.
SUBJECTS = (
    "customers|light|rich|stamp|plpgsql|everything|size|enum", "orders|totals", "(from|update) large", "empty",
    "pairs_of_rows", "left_out", "more", "events", "moods", "counter", "doubled", "secrets", "pairs$", "vector",
    "unfilled", "5001", "5002", "5003", "5004", "default privileges",
)  # fmt: skip


def in_batches(tampering: dict[str, tuple]) -> list[list[str]]:
    """Titles of what can be done to one copy: each to something else, so that all must be found by themselves."""
    batches: list[tuple[set[str], list[str]]] = []
    for title, (command, *_) in tampering.items():
        subjects = {subject for subject in SUBJECTS if re.search(subject, command)}
        assert subjects, title
        for taken, titles in batches:
            if taken.isdisjoint(subjects):
                taken |= subjects
                titles.append(title)
                break
        else:
            batches.append((subjects, [title]))
    return [titles for _, titles in batches]


SQL_ASCII = r"""
create table t (a text); insert into t values (convert_from('\xe9ff', 'SQL_ASCII'));
create table many as select i, convert_from('\xe9', 'SQL_ASCII') || i as t from generate_series(1, 1000) i;
do $$ begin
    execute format('create schema %I', convert_from('\xe9', 'SQL_ASCII'));
    execute format('create table %1$I.%1$I as select 1 as %1$I', convert_from('\xe9', 'SQL_ASCII'));
    execute format('create sequence %I', convert_from('\xe8', 'SQL_ASCII'));
    execute format('create materialized view %I as select 1', convert_from('\xe9', 'SQL_ASCII'));
end $$;
create sequence s; comment on table t is 'x';
"""


@pytest.mark.parametrize(
    ("encoding", "content"), [("LATIN1", LATIN1), ("EUC_TW", EUC_TW), ("SQL_ASCII", SQL_ASCII)]
)
@only_on("moto")
def test_databases_in_other_encodings_are_compared(
    pg18: Cluster, encoding: str, content: str, new_database, new_name, back_up, restore, compare_with
):
    database = new_database(pg18, content, encoding=encoding, locale="C", template="template0")
    made = back_up(pg18, database)
    copy = new_name(pg18, "copy")
    restore(pg18, copy, backup=made["uri"])
    assert compare_with(made, pg18, copy).differences == []
    # The first row of one table, whatever its name is.
    delete_one = """
        do $$ declare t regclass; begin
            select oid into t from pg_class where relkind = 'r' and oid > 16383 order by oid desc limit 1;
            execute format('delete from %s where ctid = (select min(ctid) from %1$s)', t);
        end $$
    """
    pg18.psql(delete_one, copy)
    (difference,) = compare_with(made, pg18, copy).differences
    assert difference.kind == "table"
    assert difference.detail.endswith("the first difference is in row 1")


@only_on("moto")
def test_without_roles_owners_and_privileges_are_no_difference(
    pg18_with_vector: Cluster, back_up, restore, new_database, new_name, compare_with
):
    pg18 = pg18_with_vector
    create_hard_roles(pg18)
    made = back_up(pg18, new_database(pg18, SHOP, name="shop"))
    restored = new_name(pg18, "restored")
    restore(pg18, restored, backup=made["uri"], pg_restore_options=["--no-owner", "--no-privileges"])
    assert compare_with(made, pg18, restored, with_roles=False).differences == []
    names = {difference.name for difference in compare_with(made, pg18, restored).differences}
    assert {"TABLE public.empty", "ACL of TABLE public.customers", "5001", "5002"} < names


@pytest.fixture
def tools_without_psql(tmp_path: Path) -> client_versions.ClientTools:
    """The newest client programs, but for psql."""
    major, folder = list(installations().items())[-1]
    for program in ("pg_dump", "pg_restore"):
        (tmp_path / program).symlink_to(folder / program)
    return client_versions.ClientTools(major=major, version=str(major), folder=tmp_path)


@only_on("moto")
def test_an_installation_without_psql_will_do(
    pg18: Cluster, back_up, restore, new_database, new_name, compare_with, tools_without_psql
):
    table = "create table large as select i, repeat('x', 200) as t from generate_series(1, 60000) i"
    made = back_up(pg18, new_database(pg18, table))
    assert made["raw_bytes"] > 8_000_000
    restored = new_name(pg18, "restored")
    restore(pg18, restored, backup=made["uri"])
    assert compare_with(made, pg18, restored, tools=tools_without_psql).differences == []
    pg18.psql("delete from large where i > 59998", restored)
    (result,) = compare_with(made, pg18, restored, tools=tools_without_psql, locate=False).tables
    assert (result.rows_found, result.matches, result.first_difference) == (59998, False, None)
    (result,) = compare_with(made, pg18, restored, tools=tools_without_psql, jobs=1).tables
    assert result.first_difference == 59999


@only_on("moto")
def test_what_cannot_be_known_is_an_error_and_no_difference(
    pg18: Cluster, back_up, restore, new_database, new_name, compare_with, processes
):
    made = back_up(pg18, new_database(pg18, "create table t as select 1 as a"))
    restored = new_name(pg18, "restored")
    restore(pg18, restored, backup=made["uri"])
    pg18.psql("drop role if exists stranger; create role stranger login password 'stranger'")
    stranger = {"user": "stranger", "password": "stranger"}
    with pytest.raises(PgS3Error, match="permission denied for table t"):
        compare_with(made, pg18, restored, connection=stranger)
    pg18.psql("drop role stranger")
    told_to_stop = threading.Event()
    told_to_stop.set()
    with pytest.raises(Cancelled):
        compare_with(made, pg18, restored, cancel=told_to_stop)
    assert processes() == []
