"""Schemas whose names look like a part of pg_restore's words for what is in them."""

from collections.abc import Callable

import pytest

from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.postgres import Cluster
from tests.conftest import MAJORS
from tests.integration.conftest import only_on
from tests.support.sampling import sample

# pg_restore --list has "TABLE DATA orders postgres" for the table orders of the schema DATA.
FILL = """
create schema "DATA"; create schema "ATTACH"; create schema "SET"; create schema "OWNED"; create schema "ACL";
create schema "CLASS"; create schema "FAMILY";
create table "DATA".orders as select i, 'order ' || i as what from generate_series(1, 1000) as i;
create materialized view "DATA".totals as select count(*) as n from "DATA".orders;
create statistics "DATA".together on i, what from "DATA".orders;
create table "DATA".parts (i int) partition by range (i);
create table "ATTACH".first partition of "DATA".parts for values from (0) to (10);
insert into "DATA".parts select generate_series(1, 9);
create index by_number on "ATTACH".first (i);
create index by_number on "DATA".parts (i);
create sequence "SET".numbers start 7;
create table "OWNED".things (id serial, made int default 5);
create sequence "OWNED"."BY numbers" owned by "OWNED".things.id;
create table "ACL".things (id serial, made int default 5);
alter default privileges in schema "ACL" grant select on tables to public;
create function "CLASS".same(int, text) returns bool language sql return true;
create operator "CLASS".=== (function = "CLASS".same, leftarg = int, rightarg = text);
create operator "FAMILY".=== (function = "CLASS".same, leftarg = int, rightarg = text);
create operator family "CLASS".numbers using btree;
create operator class "FAMILY".numbers for type int using btree family "CLASS".numbers as storage int;
select nextval('"SET".numbers');
analyze;
"""


@only_on("moto")
@pytest.mark.parametrize("major", sample(MAJORS, 1, "names of schemas"))
def test_a_backup_with_such_schemas_is_verified_and_restored_whole_and_in_parts(
    cluster_of: Callable[[int], Cluster],
    new_database: Callable[..., str],
    new_name: Callable[..., str],
    back_up: Callable[..., dict],
    restore: Callable[..., dict],
    assert_restored: Callable[..., dict],
    spool_dir,
    major: int,
) -> None:
    cluster = cluster_of(major)
    database = new_database(cluster, FILL)
    made = back_up(cluster, database)
    for level in ("checksum", "restore"):
        done = PgS3VerifyOperator(
            task_id="v", backup=made["uri"], aws_conn_id="aws", level=level, spool_dir=str(spool_dir)
        ).execute({})
        assert (done["outcome"], done["warnings"]) == ("verified", [])
    assert_restored(cluster, database, cluster, made)
    copy = new_name(cluster, "copy")
    restore(cluster, copy, backup=made["uri"], tables=["DATA.*"])
    names = "select relname from pg_class where relnamespace = '\"DATA\"'::regnamespace order by 1"
    assert cluster.psql(names, copy).split() == ["by_number", "orders", "parts", "totals"]
    counts = 'select (select n from "DATA".totals), (select count(*) from "DATA".parts)'
    assert cluster.psql(counts, copy).strip() == "1000|9"
