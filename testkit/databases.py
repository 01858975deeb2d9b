"""Databases for tests and benchmarks: one with everything that is hard to back up, big ones, many tables."""

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
    """Create the roles that the hard database needs; on another server they must exist before a restore."""
    cluster.psql(SQL / "hard" / ROLES)


def create_hard_database(cluster: Cluster, name: str, *, extensions: bool = True) -> None:
    """Create a database of about 40 MB of COPY text, with everything in testkit/sql/hard that this version knows.

    A file named like 86-from-17.sql is left out on older servers. Builds come with different extensions: without
    extensions, the database can be restored on any server that is not older.
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
    """Create a database of business data, in one table, in eight equal tables, or mostly in the last of nine.

    :param megabytes: size of its COPY text, in units of 10^6 bytes.
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
    """Create a table in an existing database, quickly, with rows of 8 kB.

    An eighth of each row is noise that the rest repeats, so that the server stores only that eighth, while a dump
    has its full size.

    :param megabytes: size of its COPY text, in units of 10^6 bytes.
    """
    rows = megabytes * 1_000_000 // WIDE_ROW_BYTES
    cluster.psql(SQL / "wide.sql", name, table=table, rows=rows)


def create_many_tables(cluster: Cluster, name: str, tables: int = 2000) -> None:
    """Create a database of many small tables, each with a sequence, a key and an index."""
    cluster.create_database(name, template="template0", encoding="UTF8")
    cluster.psql(SQL / "many_tables.sql", name, tables=tables)
