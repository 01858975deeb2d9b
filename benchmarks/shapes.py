"""Databases to measure with: what is fast for one of them is slow for another."""

from __future__ import annotations

from collections.abc import Callable

from testkit.databases import create_bulk_database, create_many_tables
from testkit.postgres import Cluster

WIDE = """
create table documents (id int primary key, body jsonb, attachment bytea);
insert into documents
select i,
    jsonb_build_object('customer', 'c' || i % 5000, 'note', repeat(md5((i % 100)::text), 20), 'total', random(),
        'lines', (
            select jsonb_agg(jsonb_build_object('sku', md5((i * j)::text), 'n', j)) from generate_series(1, 10) j
        )),
    decode((select string_agg(md5((i * 31 + k)::text), '') from generate_series(1, 32) k), 'hex')
from generate_series(1, :rows) i;
"""
WIDE_ROW_BYTES = 2950  # of COPY text, measured
LARGE_OBJECTS = """
do $$ begin
    for i in 1 .. {count} loop
        perform lo_from_bytea(0, decode(repeat(md5(i::text), 32), 'hex'));
        if i % 5000 = 0 then commit; end if;
    end loop;
end $$
"""


def one_big_table(cluster: Cluster, name: str, megabytes: int) -> None:
    create_bulk_database(cluster, name, megabytes=megabytes)


def one_dominant(cluster: Cluster, name: str, megabytes: int) -> None:
    """Nine tables, the last of which holds three fifths of all."""
    create_bulk_database(cluster, name, megabytes=megabytes, shape="one-dominant")


def balanced(cluster: Cluster, name: str, megabytes: int) -> None:
    create_bulk_database(cluster, name, megabytes=megabytes, shape="balanced")


def wide(cluster: Cluster, name: str, megabytes: int) -> None:
    cluster.create_database(name)
    cluster.psql(WIDE, name, rows=megabytes * 1_000_000 // WIDE_ROW_BYTES)


def many_tables(cluster: Cluster, name: str, megabytes: int) -> None:
    """Ten tables for each megabyte that the other shapes have."""
    create_many_tables(cluster, name, tables=megabytes * 10)


def large_objects(cluster: Cluster, name: str, megabytes: int) -> None:
    """Ten for each megabyte that the other shapes have, of 512 bytes."""
    cluster.create_database(name)
    cluster.psql(LARGE_OBJECTS.format(count=megabytes * 10), name)


SHAPES: dict[str, Callable[[Cluster, str, int], None]] = {
    "one big table": one_big_table,
    "one dominant table": one_dominant,
    "8 balanced tables": balanced,
    "jsonb and bytea": wide,
    "many small tables": many_tables,
    "large objects": large_objects,
}
# The shape on which all contenders are measured.
THOROUGH = {"8 balanced tables"}
# Measured in memory: on ext4, what is made after ten thousand files were deleted is slower than it was before.
MANY_FILES = {"many small tables", "large objects"}
