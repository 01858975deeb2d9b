"""Databases for tests and benchmarks: one that holds all that is hard to back up, big ones, many tables."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from testkit.postgres import Cluster

SQL = Path(__file__).parent / "sql"
ROLES = "00-roles.sql"
EXTENSIONS = "75-extensions.sql"
BULK_ROW_BYTES = 243  # of COPY text, measured on 1,000,000 rows
WIDE_ROW_BYTES = 8_200


def create_hard_roles(cluster: Cluster) -> None:
    """The roles that the hard database needs; on another server they must exist before a restore."""
    cluster.psql(SQL / "hard" / ROLES)


def create_hard_database(cluster: Cluster, name: str, *, extensions: bool = True) -> None:
    """About 80 MB of COPY text, with everything in testkit/sql/hard that this major version knows.

    A file named like 86-from-17.sql is left out on older servers. Builds have different extensions: without
    them the database can be restored on any server that isn't older.
    """
    create_hard_roles(cluster)
    cluster.create_database(name, template="template0", encoding="UTF8")
    left_out = {ROLES} if extensions else {ROLES, EXTENSIONS}
    for script in sorted((SQL / "hard").glob("*.sql")):
        _, _, first_major = script.stem.partition("-from-")
        if script.name not in left_out and cluster.major >= int(first_major or 0):
            cluster.psql(script, name)


def create_bulk_database(
    cluster: Cluster,
    name: str,
    *,
    megabytes: int,
    shape: Literal["one-table", "balanced", "one-dominant"] = "one-table",
) -> None:
    """Business data: so many MB (10^6 bytes) of COPY text, in one table, in eight equal ones, or most of it in the
    last of nine.
    """
    cluster.create_database(name, template="template0", encoding="UTF8")
    rows = megabytes * 1_000_000 // BULK_ROW_BYTES
    shares = {"one-table": [1.0], "balanced": [1 / 8] * 8, "one-dominant": [1 / 20] * 8 + [12 / 20]}[shape]

    def fill(number: int) -> None:
        variables = {"first": int(rows * sum(shares[:number])) + 1, "rows": int(rows * shares[number])}
        cluster.psql(SQL / "bulk.sql", name, table=f"orders_{number}", **variables)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(fill, range(len(shares))))


def create_wide_table(cluster: Cluster, name: str, table: str, *, megabytes: int) -> None:
    """A table in a database that is there: so many MB of COPY text, quickly made, in rows of 8 kB.

    An eighth of it is noise: the rest repeats within each row, so that the server stores that eighth alone, while
    a dump is as long as it would be otherwise.
    """
    rows = megabytes * 1_000_000 // WIDE_ROW_BYTES
    cluster.psql(SQL / "wide.sql", name, table=table, rows=rows)


def create_many_tables(cluster: Cluster, name: str, tables: int = 2000) -> None:
    """A database of so many small tables, each with a sequence, a key and an index."""
    cluster.create_database(name, template="template0", encoding="UTF8")
    cluster.psql(SQL / "many_tables.sql", name, tables=tables)
