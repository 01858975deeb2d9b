"""Databases that change a little from one night to the next, each in a way of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from testkit.databases import BULK_ROW_BYTES, SQL, create_bulk_database
from testkit.postgres import Cluster

PARTITIONS = 30
LARGEST = "orders_8"
"""The table of a database with one dominant table that holds three fifths of its rows."""
UPDATE = "update {table} set status = 'paid', total = total + 1 where random() < 0.01"


@dataclass(frozen=True)
class Night:
    """What a database holds, and what happens to it in a day.

    :param create: called with a name and the megabytes of COPY text.
    :param change: called with the same, and the number of the day, from 1.
    """

    create: Callable[[Cluster, str, int], None]
    change: Callable[[Cluster, str, int, int], None]


def _rows(megabytes: int) -> int:
    return megabytes * 1_000_000 // BULK_ROW_BYTES


def _create_balanced(cluster: Cluster, name: str, megabytes: int) -> None:
    create_bulk_database(cluster, name, megabytes=megabytes, shape="balanced")


def _create_dominant(cluster: Cluster, name: str, megabytes: int) -> None:
    create_bulk_database(cluster, name, megabytes=megabytes, shape="one-dominant")


def _create_partitioned(cluster: Cluster, name: str, megabytes: int) -> None:
    cluster.create_database(name, template="template0", encoding="UTF8")
    for number in range(PARTITIONS):
        _create_partition(cluster, name, megabytes, number)
    cluster.psql("create table orders (like orders_0 including indexes) partition by range (id)", name)
    for number in range(PARTITIONS):
        _attach(cluster, name, megabytes, number)


def _create_partition(cluster: Cluster, name: str, megabytes: int, number: int) -> None:
    rows = _rows(megabytes) // PARTITIONS
    cluster.psql(SQL / "bulk.sql", name, table=f"orders_{number}", first=number * rows + 1, rows=rows)


def _attach(cluster: Cluster, name: str, megabytes: int, number: int) -> None:
    rows = _rows(megabytes) // PARTITIONS
    first = number * rows + 1
    cluster.psql(
        f"alter table orders attach partition orders_{number} for values from ({first}) to ({first + rows})", name
    )


def _leave(cluster: Cluster, name: str, megabytes: int, day: int) -> None:
    """Change nothing."""


def _append(cluster: Cluster, name: str, megabytes: int, day: int) -> None:
    """Add a hundredth of its first rows to the largest table."""
    rows = _rows(megabytes) * 12 // 20 // 100
    first = _rows(megabytes) + (day - 1) * rows + 1
    cluster.psql(SQL / "bulk.sql", name, table="fresh", first=first, rows=rows)
    cluster.psql(f"insert into {LARGEST} select * from fresh order by id; drop table fresh", name)


def _renew_partition(cluster: Cluster, name: str, megabytes: int, day: int) -> None:
    """Drop the oldest partition, and add a new one."""
    number = PARTITIONS + day - 1
    cluster.psql(f"drop table orders_{day - 1}", name)
    _create_partition(cluster, name, megabytes, number)
    _attach(cluster, name, megabytes, number)


def _update(cluster: Cluster, name: str, megabytes: int, day: int) -> None:
    """Update a hundredth of the rows of all tables, at random."""
    for number in range(8):
        cluster.psql(UPDATE.format(table=f"orders_{number}"), name)


def _work(cluster: Cluster, name: str, megabytes: int, day: int) -> None:
    """Append to the largest table, update two of the others, add a small one."""
    _append(cluster, name, megabytes, day)
    for number in range(2):
        cluster.psql(UPDATE.format(table=f"orders_{number}"), name)
    rows = _rows(megabytes) // 300
    cluster.psql(SQL / "bulk.sql", name, table=f"day_{day}", first=2 * _rows(megabytes) + day * rows, rows=rows)


NIGHTS = {
    "second night, nothing changed": Night(_create_balanced, _leave),
    "second night, 1 % appended": Night(_create_dominant, _append),
    "second night, one of 30 partitions new": Night(_create_partitioned, _renew_partition),
    "second night, 1 % updated at random": Night(_create_balanced, _update),
}
MONTH = "30 nights"
DAYS = 30
WORKING = Night(_create_dominant, _work)
