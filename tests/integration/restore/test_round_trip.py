"""A database comes back from S3 exactly as it was, whatever it holds, by the operators alone."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pyrage
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.repository.manifest import Manifest, Table
from airflow_pg_s3.core.repository.members import Member
from testkit.database_equality import compare_databases
from testkit.databases import create_many_tables, create_wide_table
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import only_on
from tests.support.sampling import TORTURE, sample

# What values look like as text depends on these: pg_dump sets them, or we do it for pg_dump.
COPY_SETTINGS = """
SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; SET timezone = 'UTC';
SET bytea_output = 'hex'; SET quote_all_identifiers = off; SET search_path = ''; SET row_security = off;
SET synchronize_seqscans = off; SET client_encoding = '{encoding}'
"""
RAW = "latin-1"  # one character for each byte


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def is_as_recorded(connection: psycopg.Connection, member: Member, *, codec: str = "utf-8") -> bool:
    """Whether `COPY … TO STDOUT` sends what is recorded of a table's data."""
    table = member.table
    columns = f"({', '.join(map(quoted, table.columns))})" if table.columns else ""
    command = f"COPY {quoted(table.schema_name)}.{quoted(table.name)} {columns} TO STDOUT"
    with connection.cursor() as cursor, cursor.copy(command.encode(codec)) as copy:
        rows = [bytes(row) for row in copy]
    content, at = b"".join([*rows, b"\\.\n\n\n"]), 0
    for size, sha256 in member.pieces():
        if hashlib.sha256(content[at : at + size]).hexdigest() != sha256:
            return False
        at += size
    return (len(rows), len(content)) == (table.rows, at)


def digest_by_psql(cluster: Cluster, database: str, table: Table) -> str:
    """Digest of what `COPY … TO STDOUT` sends, by a pipe: a gigabyte takes long through Python's client."""
    command = f"COPY {quoted(table.schema_name)}.{quoted(table.name)} TO STDOUT"
    psql = [cluster.pg_bin / "psql", "-X", "-q", "-c", COPY_SETTINGS.format(encoding="UTF8"), "-c", command]
    with subprocess.Popen(psql, env=cluster.client_env(database), stdout=subprocess.PIPE) as process:
        digest = hashlib.file_digest(process.stdout, "sha256").hexdigest()
    assert process.returncode == 0
    return digest


def wrong_tables(
    manifest: Manifest, members: list[Member], cluster: Cluster, database: str, *, codec: str = "utf-8"
) -> list[str]:
    """Tables of which the backup says other than the database itself."""
    wrong = []
    with cluster.connect(database) as connection:
        connection.execute(COPY_SETTINGS.format(encoding=manifest.server.encoding).encode())
        for member in members:
            # The hash of an enum's label decides on these tables' rows, and no COPY reads the root.
            if member.table is None or member.table.through_root:
                continue
            if not is_as_recorded(connection, member, codec=codec):
                wrong.append(f"{member.table.schema_name}.{member.table.name}")
    return wrong


def plain_dump(cluster: Cluster, database: str) -> list[bytes]:
    """The whole database as SQL, in its own encoding."""
    dump = subprocess.run(
        [cluster.pg_bin / "pg_dump"], env=cluster.client_env(database), stdout=subprocess.PIPE, check=True
    ).stdout
    # Each dump has a random key of its own.
    return [line for line in dump.splitlines() if not line.startswith((b"\\restrict", b"\\unrestrict"))]


@pytest.fixture
def age_recipient(connections) -> str:
    """The recipient of the identity that the connection `age` holds."""
    identity = pyrage.x25519.Identity.generate()
    connections.set("age", json.dumps({"conn_type": "generic", "password": f"# a comment\n{identity}\n"}))
    return str(identity.to_public())


@pytest.mark.parametrize(
    ("source_major", "target_major", "s3", "jobs", "encrypted"),
    sample(
        [
            (15, 15, "ceph", 1, False),
            (15, 18, "moto", 4, True),
            (16, 18, "ceph", 4, False),
            (18, 18, "ceph", 2, True),
        ],
        2,
        "hard database",
    ),
    indirect=["s3"],
)
def test_the_hard_database_comes_back_exactly(
    cluster_of: Callable[[int], Cluster],
    source_major: int,
    target_major: int,
    jobs: int,
    encrypted: bool,
    hard_database,
    portable_hard_database,
    back_up,
    assert_restored,
    request: pytest.FixtureRequest,
    leftovers,
    s3: S3Server,
    bucket: str,
):
    source, target = cluster_of(source_major), cluster_of(target_major)
    database = (hard_database if source is target else portable_hard_database)(source)
    to = {"age_recipients": [request.getfixturevalue("age_recipient")]} if encrypted else {}
    with_ = {"age_identity_conn_id": "age"} if encrypted else {}
    made = back_up(source, database, jobs=jobs, **to)
    restored = assert_restored(source, database, target, made, jobs=jobs, **with_)
    assert (restored["tables"], restored["rows"]) == (made["tables"], made["rows"])
    for key in leftovers():
        body = s3.client().get_object(Bucket=bucket, Key=key)["Body"].read(21)
        assert (
            key.endswith((".json", "members.json.zst", "settled"))
            or (body == b"age-encryption.org/v1") == encrypted
        ), key


@only_on("moto")
def test_the_manifest_says_of_each_table_what_the_source_itself_says(
    postgres: Cluster, hard_database, back_up, manifest_of, members_of
):
    database = hard_database(postgres)
    made = back_up(postgres, database)
    assert wrong_tables(manifest_of(made), members_of(made), postgres, database) == []
    tables = [member.table for member in members_of(made) if member.table is not None]
    assert made["tables"] == len(tables) > 200
    assert made["rows"] == sum(table.rows for table in tables)
    with postgres.connect(database) as connection:
        (count,) = connection.execute("SELECT count(*) FROM shapes_of_tables.by_enum").fetchone()
        (relations,) = connection.execute(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'r' "
            "AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT EXISTS ("
            "SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')"
        ).fetchone()
    assert sum(table.rows for table in tables if table.through_root) == count == 180
    assert made["tables"] == relations


@only_on("moto")
def test_clean_turns_an_older_copy_into_the_backup(pg18: Cluster, hard_database, back_up, restore, new_name):
    database, copy = hard_database(pg18), new_name(pg18, "older copy")
    made = back_up(pg18, database)
    restore(pg18, copy, backup=made["uri"])
    pg18.psql(
        """
        DELETE FROM volume.orders WHERE id % 3 = 0;
        DROP PUBLICATION by_schema;
        -- pg_restore drops no default privileges: tables restored where there are some would get them as well
        ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM lab_reader;
        UPDATE volume.wide_text SET body = 'changed since';
        DROP TABLE volume.narrow;
        ALTER TABLE volume.toasted ADD COLUMN added_since int;
        DROP SCHEMA types CASCADE;
        SELECT lo_unlink(oid) FROM pg_largeobject_metadata LIMIT 1;
        """,
        copy,
    )
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) != []
    restore(pg18, copy, backup=made["uri"], if_exists="clean")
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []


@only_on("moto")
def test_many_tables_are_a_few_dozen_objects(pg18: Cluster, new_name, back_up, assert_restored, leftovers):
    database = new_name(pg18, "many tables")
    tables = 2000 if TORTURE else 600
    create_many_tables(pg18, database, tables)
    made = back_up(pg18, database, jobs=4)
    assert made["tables"] == tables
    assert len(leftovers()) <= 100
    assert_restored(pg18, database, pg18, made, jobs=4)


@only_on("best")
def test_a_table_of_many_runs_comes_back_exactly(pg18: Cluster, new_name, back_up, restore, members_of):
    megabytes = 1000 if TORTURE else 100
    database, copy = new_name(pg18, "large"), new_name(pg18, "copy")
    pg18.create_database(database)
    create_wide_table(pg18, database, "wide", megabytes=megabytes)
    made = back_up(pg18, database)
    assert made["raw_bytes"] > megabytes * 990_000
    assert made["stored_bytes"] < made["raw_bytes"] / 3
    restore(pg18, copy, backup=made["uri"])
    (table,) = (member.table for member in members_of(made) if member.table is not None)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda name: digest_by_psql(pg18, name, table), [database, copy]))
    assert digests[0] == digests[1]


AWKWARD_DATABASE_NAMES = [
    "a/b c 100%2F+&?#=",
    """ünï ☃ 'quoted' "twice" \\ back\nand a line""",
    "..",
    "host=elsewhere dbname=other",
    "postgres://elsewhere/other",
]


@pytest.mark.parametrize("name", AWKWARD_DATABASE_NAMES)
@only_on("best")
def test_any_name_of_a_database_is_kept_in_keys_listings_and_commands(
    pg18: Cluster, name: str, back_up, restore, list_backups, leftovers
):
    copy = f"{name} copy"
    try:
        for database in (name, copy):
            pg18.create_database(database)
        with pg18.connect(name) as connection:
            connection.execute("CREATE TABLE t AS SELECT 42 AS a")
        made = back_up(pg18, name)
        assert made["database"] == name
        assert [(row["database"], row["uri"]) for row in list_backups()] == [(name, made["uri"])]
        assert [row["uri"] for row in list_backups(database=name)] == [made["uri"]]
        assert {key.count("/") for key in leftovers()} == {
            3,
            4,
        }  # some/prefix/<database>/<id>.json, …/<id>/<object>
        restore(pg18, copy, backup=made["uri"])
        assert compare_databases(pg18.dsn(name), pg18.dsn(copy)) == []
    finally:
        for database in (name, copy):
            pg18.drop_database(database)


LATIN1 = """SET client_encoding = UTF8;
CREATE SCHEMA "schéma";
CREATE TYPE "schéma"."humeur ÿ" AS ENUM ('gaîté', 'où');
CREATE TABLE "schéma"."café £" ("prénom Ñ" text DEFAULT 'é', h "schéma"."humeur ÿ" DEFAULT 'où');
INSERT INTO "schéma"."café £" SELECT i || chr(i), 'gaîté' FROM generate_series(1, 255) AS i;
CREATE TABLE "schéma".nombreux AS SELECT i, repeat(chr(160 + i % 96), 50) AS t FROM generate_series(1, 30000) AS i;
COMMENT ON TABLE "schéma"."café £" IS 'à côté';
"""
EUC_JP = """SET client_encoding = UTF8;
CREATE SCHEMA 図式;
CREATE TABLE 図式.表 (名前 text DEFAULT '山田', 値 int);
INSERT INTO 図式.表 VALUES ('カタカナ', 1), ('ｶﾀｶﾅ', 2), ('漢字', 3), (E'タブ\\t改行\\n', 4);
CREATE TABLE 図式.多数 AS SELECT i, repeat('日本語', i % 50) AS t FROM generate_series(1, 30000) AS i;
COMMENT ON COLUMN 図式.表.値 IS '値段';
"""
EUC_TW = """SET client_encoding = UTF8;
CREATE SCHEMA 圖;
CREATE TABLE 圖.表 AS SELECT i, repeat('中文', i) AS 名 FROM generate_series(1, 100) AS i;
"""


@pytest.mark.parametrize(
    ("encoding", "content", "table"),
    [
        ("LATIN1", LATIN1, ("schéma", "café £", ["prénom Ñ", "h"], 255)),
        ("EUC_JP", EUC_JP, ("図式", "表", ["名前", "値"], 4)),
        ("EUC_TW", EUC_TW, None),  # whose names Python cannot read
    ],
)
@only_on("moto")
def test_a_database_in_another_encoding_comes_back_exactly(
    pg18: Cluster,
    encoding: str,
    content: str,
    table: tuple | None,
    new_database,
    new_name,
    back_up,
    restore,
    members_of,
):
    database = new_database(pg18, content, encoding=encoding, locale="C", template="template0")
    made = back_up(pg18, database)
    copy = new_name(pg18, "copy")
    restore(pg18, copy, backup=made["uri"])
    assert plain_dump(pg18, copy) == plain_dump(pg18, database)
    if table is not None:
        tables = [member.table for member in members_of(made) if member.table is not None]
        assert table in [(t.schema_name, t.name, t.columns, t.rows) for t in tables]


@only_on("moto")
def test_any_bytes_of_a_database_without_encoding_come_back_exactly(
    pg18: Cluster, new_database, new_name, back_up, restore, manifest_of, members_of
):
    database = new_database(pg18, encoding="SQL_ASCII", locale="C", template="template0")
    latin1, high = "caf\xe9", "".join(map(chr, range(128, 256)))
    with pg18.connect(database) as connection:
        connection.execute(b"SET client_encoding = SQL_ASCII; SET standard_conforming_strings = on")
        for command in (
            f'CREATE SCHEMA "{latin1}"',
            f'CREATE TABLE "{latin1}"."t \xff" ("c \xfe" text)',
            f"INSERT INTO \"{latin1}\".\"t \xff\" VALUES ('{high}'), ('caf\xc3\xa9')",
            f"CREATE TABLE \"{latin1}\".many AS SELECT i, '{high}'::text AS t FROM generate_series(1, 30000) AS i",
            f"COMMENT ON SCHEMA \"{latin1}\" IS '{high}'",
        ):
            connection.execute(command.encode(RAW))
    made = back_up(pg18, database)
    assert wrong_tables(manifest_of(made), members_of(made), pg18, database, codec=RAW) == []
    copy = new_name(pg18, "copy")
    restore(pg18, copy, backup=made["uri"])
    assert plain_dump(pg18, copy) == plain_dump(pg18, database)
    with pytest.raises(AirflowFailException, match=r"not empty, it holds table .*many"):
        restore(pg18, copy, backup=made["uri"])
