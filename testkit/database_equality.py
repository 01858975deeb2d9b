"""Compare two databases byte by byte: `compare_databases(a, b) == []` means that they are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from testkit.postgres import installations
from testkit.schema_dump import compare_schemas, read_schema

# The text of values must not depend on the settings of a server, a database or a role.
SESSION = """
SET search_path = ''; SET client_encoding = 'UTF8'; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres'; SET extra_float_digits = 3; SET bytea_output = 'hex'; SET row_security = off;
SET synchronize_seqscans = off; SET statement_timeout = 0; SET quote_all_identifiers = off;
"""

# Before 15 there is one provider, libc, and no column for it.
DATABASE = """
SELECT 'encoding', pg_encoding_to_char(encoding), 'collation', datcollate, 'character type', datctype,
    'locale provider', coalesce(to_jsonb(d) ->> 'datlocprovider', 'c')
FROM pg_database d WHERE datname = current_database()
"""
EXTENSIONS = """
SELECT extname, extversion, nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
"""
# Generated columns are compared as well, as a restore computes them anew. A tree that is partitioned by the hash
# of an enum is read as a whole: its rows are restored through the root, as these hashes differ between databases.
TABLES = """
WITH tree AS (
    SELECT DISTINCT pg_partition_root(partrelid) AS root FROM pg_partitioned_table
    WHERE partstrat = 'h' AND EXISTS (
        SELECT FROM unnest(partclass) AS class JOIN pg_opclass o ON o.oid = class WHERE opcname = 'enum_ops'))
SELECT format('%I.%I', nspname, relname), relkind, nspname, relname, relispopulated, coalesce(amname, ''),
    relpersistence, array(
        SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        ORDER BY attname::text COLLATE "C")
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace LEFT JOIN pg_am a ON a.oid = relam
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND (
    c.oid IN (SELECT root FROM tree)
    OR relkind IN ('r', 'm') AND NOT (relispartition AND pg_partition_root(c.oid) IN (SELECT root FROM tree)))
ORDER BY pg_table_size(c.oid) DESC
"""
KINDS = {"r": "table", "p": "partitioned table", "m": "materialized view"}
SEQUENCES = """
SELECT format('%I.%I', nspname, relname), nspname, relname, format_type(seqtypid, NULL) AS type, seqstart,
    seqincrement, seqmax, seqmin, seqcache, seqcycle, relpersistence
FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid JOIN pg_namespace n ON n.oid = relnamespace
"""
LARGE_OBJECTS = """
SELECT oid, pg_get_userbyid(lomowner), obj_description(oid, 'pg_largeobject'), array(
    SELECT item::text FROM unnest(coalesce(lomacl, acldefault('L', lomowner))) AS item
    ORDER BY item::text COLLATE "C")
FROM pg_largeobject_metadata
"""
LARGE_OBJECT_CHUNK = 1024 * 1024
EXCERPT = 100

Connection = psycopg.Connection[tuple[Any, ...]]
Facts = Mapping[str, Mapping[str, object]]


class Table(NamedTuple):
    """A table or a materialized view with data of its own."""

    name: str
    kind: str
    copy: sql.Composed
    facts: Mapping[str, object]


def compare_databases(dsn_a: str, dsn_b: str, *, jobs: int = 2) -> list[str]:
    """Return a sentence, naming the object, for each difference of b from a; the stored order of rows counts.

    Compared are encoding and collation, extensions, the whole schema with owners, privileges and comments (as the
    newest pg_dump here writes it), all rows of all tables and materialized views, sequences, and large objects.
    Not compared are roles and tablespaces, which belong to the server, and the database's own settings. Each table
    is read once, in bounded memory, over `jobs` connections to each database.
    """
    with ExitStack() as stack:
        pairs = [(_connect(dsn_a, stack), _connect(dsn_b, stack)) for _ in range(jobs)]
        a, b = pairs[0]
        ddl_a, ddl_b = (read_schema(dsn, client_major=max(installations())) for dsn in (dsn_a, dsn_b))
        same_major = a.info.server_version // 10000 == b.info.server_version // 10000
        return [
            *_compare_facts("database", {"itself": _database(a)}, {"itself": _database(b)}),
            *_compare_facts("extension", _extensions(a), _extensions(b)),
            *compare_schemas(ddl_a, ddl_b, same_major=same_major),
            *_compare_facts("sequence", _sequences(a), _sequences(b)),
            *_compare_facts("large object", _large_objects(a), _large_objects(b)),
            *_compare_tables(pairs),
        ]


def _connect(dsn: str, stack: ExitStack) -> Connection:
    connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
    connection.execute(SESSION.encode())
    return connection


# -- facts: small enough to be read as a whole ----------------------------------------------------------


def _database(connection: Connection) -> Mapping[str, object]:
    row = connection.execute(DATABASE).fetchall()[0]
    return dict(zip(row[::2], row[1::2], strict=True))


def _extensions(connection: Connection) -> Facts:
    return {
        name: {"version": version, "schema": schema} for name, version, schema in connection.execute(EXTENSIONS)
    }


def _sequences(connection: Connection) -> Facts:
    cursor = connection.execute(SEQUENCES)
    columns = [column.name for column in cursor.description or ()][3:]
    facts: dict[str, dict[str, object]] = {}
    for name, schema, relation, *attributes in cursor.fetchall():
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, relation))
        last_value, is_called = connection.execute(query).fetchall()[0]
        state = {"last_value": last_value, "is_called": is_called}
        facts[name] = dict(zip(columns, attributes, strict=True)) | state
    return facts


def _large_objects(connection: Connection) -> Facts:
    return {
        str(oid): {
            "owner": owner,
            "comment": comment,
            "rights": rights,
            **_large_object_content(connection, oid),
        }
        for oid, owner, comment, rights in connection.execute(LARGE_OBJECTS).fetchall()
    }


def _large_object_content(connection: Connection, oid: int) -> Mapping[str, object]:
    digest, size = hashlib.sha256(), 0
    with connection.cursor(binary=True) as cursor:
        while chunk := cursor.execute("SELECT lo_get(%s, %s, %s)", (oid, size, LARGE_OBJECT_CHUNK)).fetchall()[0][
            0
        ]:
            digest.update(chunk)
            size += len(chunk)
    return {"size": size, "content (SHA-256)": digest.hexdigest()}


def _compare_facts(kind: str, a: Facts, b: Facts) -> Iterator[str]:
    for name in a:
        if name not in b:
            yield f"{kind} {name} is missing"
            continue
        for fact, value in a[name].items():
            if b[name][fact] != value:
                yield f"{kind} {name}: {fact} is {b[name][fact]!r} instead of {value!r}"
    yield from (f"{kind} {name} was not there before" for name in b if name not in a)


# -- tables: streamed -----------------------------------------------------------------------------------


def _compare_tables(pairs: list[tuple[Connection, Connection]]) -> list[str]:
    a, b = ({table.name: table for table in _tables(connection)} for connection in pairs[0])
    facts_a, facts_b = ({table.name: table.facts for table in tables.values()} for tables in (a, b))
    differences = list(_compare_facts("table", facts_a, facts_b))
    idle: SimpleQueue[tuple[Connection, Connection]] = SimpleQueue()
    for pair in pairs:
        idle.put(pair)

    def compare(name: str) -> str | None:
        pair = idle.get()
        try:
            return _compare_rows(pair, a[name], b[name])
        finally:
            idle.put(pair)

    both = [name for name in a if name in b and a[name].facts == b[name].facts]
    with ThreadPoolExecutor(max_workers=len(pairs)) as pool:
        return differences + [difference for difference in pool.map(compare, both) if difference]


def _tables(connection: Connection) -> Iterator[Table]:
    for name, kind, schema, relname, populated, method, persistence, columns in connection.execute(TABLES):
        relation = sql.Identifier(schema, relname)
        source = sql.SQL("FROM {}" if kind == "p" else "FROM ONLY {}").format(relation)
        if kind != "r":  # filled in any order, by a query or by several members at once
            source += sql.SQL(' ORDER BY {}::text COLLATE "C"').format(sql.Identifier(relname))
        # SELECT, as COPY of a table leaves generated columns out
        copy = sql.SQL("COPY (SELECT {} {}) TO STDOUT").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), source
        )
        facts = {
            "columns": columns,
            "populated": populated,
            "access method": method,
            "persistence": persistence,
        }
        yield Table(name, KINDS[kind], copy, facts)


def _compare_rows(pair: tuple[Connection, Connection], a: Table, b: Table) -> str | None:
    if not a.facts["populated"]:
        return None
    (digest_a, rows_a), (digest_b, rows_b) = _digest(pair[0], a), _digest(pair[1], b)
    if rows_a != rows_b:
        return f"{a.kind} {a.name}: {rows_b} rows instead of {rows_a}"
    if digest_a != digest_b:
        return f"{a.kind} {a.name}: {_first_difference(pair, a, b)}"
    return None


def _digest(connection: Connection, table: Table) -> tuple[bytes, int]:
    digest, rows = hashlib.sha256(), 0
    for row in _rows(connection, table):
        digest.update(row)
        rows += 1
    return digest.digest(), rows


def _first_difference(pair: tuple[Connection, Connection], a: Table, b: Table) -> str:
    both = zip(_rows(pair[0], a), _rows(pair[1], b), strict=True)
    number, row_a, row_b = next((n, x, y) for n, (x, y) in enumerate(both, start=1) if x != y)
    at = next(i for i in range(len(row_a) + 1) if row_a[: i + 1] != row_b[: i + 1])
    start = max(0, at - EXCERPT // 2)
    excerpts = (row[start : start + EXCERPT].decode(errors="replace") for row in (row_b, row_a))
    return "row {} differs at byte {}: {!r} instead of {!r}".format(number, at, *excerpts)


def _rows(connection: Connection, table: Table) -> Iterator[bytes]:
    """Yield the rows as COPY text, one by one."""
    with connection.cursor() as cursor, cursor.copy(table.copy) as copy:
        for row in copy:
            yield bytes(row)
