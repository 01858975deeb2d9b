"""What a backup holds, without a server: as a folder for pg_restore, and one table's rows."""

import re
import subprocess
from pathlib import Path

import psycopg
import pyrage
import pytest

from testkit.database_equality import compare_databases
from testkit.postgres import Cluster
from tests.integration.cli.conftest import PG_S3
from tests.integration.conftest import only_on

pytestmark = only_on("moto")
# As pg_dump sets it.
SESSION = "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3"
ODD = r"""
create table odd (id int, "a ""good"" column" text, at timestamptz default '2026-01-01', bytes bytea);
insert into odd (id, "a ""good"" column", bytes) values
    (1, null, null), (2, '', ''), (3, E'tab\t line\n return\r back\\ \b\f\v', '\x00ff'), (4, '\.', null),
    (5, '\N', null), (6, 'comma, "quote"', null), (7, 'ünïcode', null), (8, ' ', null), (9, E'\\n', null);
create table one (text text); insert into one values ('\.'), (''), (null), ('"');
create table large as select i, md5(i::text) as noise from generate_series(1, 60000) i;
create table again as table large;
create view seen as table one; create sequence counter;
create table empty (i int);
create table nothing (); insert into nothing default values;
create schema "Other"; create table "Other"."my table" as select 1 as i;
"""


@pytest.fixture
def backup(made) -> dict:
    return made(ODD)


@pytest.fixture
def cat(environment, backup):
    """(*arguments) → what `pg-s3 cat` writes."""

    def run(*arguments: str) -> bytes:
        done = subprocess.run([PG_S3, "cat", backup["uri"], *arguments], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def copied(cluster: Cluster, database: str, table: str, options: str = "") -> bytes:
    with psycopg.connect(cluster.dsn(database), client_encoding="utf8") as connection:
        connection.execute(SESSION)
        with connection.cursor().copy(f"copy {table} to stdout {options}") as copy:
            return b"".join(copy)


def test_cat_writes_what_copy_sends(pg18: Cluster, backup, cat):
    source = backup["database"]
    for table in ("odd", "one", "large", "empty", "nothing", '"Other"."my table"'):
        name = table.replace('"', "")
        assert cat(name) == copied(pg18, source, table), table
        csv = cat(name, "--format", "csv", "--header", "-q")
        assert csv == copied(pg18, source, table, "(format csv, header)"), table


def test_cat_says_how_to_load_it_and_which_tables_are_near(pg_s3, backup):
    said = pg_s3("cat", backup["uri"], "public.odd").err
    assert r'\copy "public"."odd" ("id", "a ""good"" column", "at", "bytes") FROM ' in said
    unknown = pg_s3("cat", backup["uri"], "public.larg")
    assert (unknown.code, unknown.out) == (2, "")
    assert "holds no rows of a table 'public.larg': did you mean public.large?" in unknown.err
    for name, kind in {"seen": "view", "counter": "sequence"}.items():
        said = pg_s3("cat", backup["uri"], name).err
        assert (
            f"backup {backup['backup_id']} holds no rows of the {kind} public.{name}: it has none of its own"
            in said
        )
    assert pg_s3("cat", backup["uri"], "odd", "--header").code == 2


def test_a_download_is_what_a_plain_pg_restore_takes(pg18: Cluster, pg_s3, backup, new_name, tmp_path: Path):
    folder = tmp_path / "downloaded" / "archive"
    missing = pg_s3("download", backup["uri"], str(folder))
    assert (missing.code, "nothing can be written into" in missing.err) == (2, True)
    folder.parent.mkdir()
    done = pg_s3("download", backup["uri"], str(folder), "--output", "json")
    assert done.code == 0, done.err
    assert (done.json["folder"], done.json["rows"]) == (str(folder), backup["rows"])
    assert list(folder.parent.iterdir()) == [folder]
    # Chunks that are there twice are read twice.
    assert re.search(r"^read ([\d.]+ \w+) of \1, ", done.err, re.MULTILINE)
    copy = new_name(pg18, "copy")
    pg18.create_database(copy)
    pg18.run("pg_restore", "--jobs=2", f"--dbname={copy}", folder)
    assert compare_databases(pg18.dsn(backup["database"]), pg18.dsn(copy)) == []
    again = pg_s3("download", backup["uri"], str(folder))
    assert (again.code, "exists already" in again.err) == (2, True)


def test_a_download_of_a_damaged_backup_leaves_nothing(s3, bucket, pg_s3, backup, leftovers, tmp_path: Path):
    (large,) = [key for key in leftovers() if key.endswith("/000001.zst")]
    data = bytearray(s3.client().get_object(Bucket=bucket, Key=large)["Body"].read())
    data[len(data) // 2] ^= 1
    s3.client().put_object(Bucket=bucket, Key=large, Body=bytes(data))
    folder = tmp_path / "downloaded"
    folder.mkdir()
    failed = pg_s3("download", backup["uri"], str(folder / "archive"))
    assert (failed.code, failed.out) == (1, "")
    assert "error: " in failed.err
    assert list(folder.iterdir()) == []


def test_an_encrypted_backup_takes_the_file_with_its_identity(made, pg_s3, tmp_path: Path):
    identity = pyrage.x25519.Identity.generate()
    done = made("create table t as select 42 as i", "--age-recipient", str(identity.to_public()))
    refused = pg_s3("cat", done["uri"], "t")
    assert refused.code == 2
    assert "give the file that holds an identity of one of its recipients" in refused.err
    file = tmp_path / "key.txt"
    file.write_text(f"# created: today\n{identity}\n")
    assert pg_s3("cat", done["uri"], "t", "--identity", str(file)).out == "42\n"
