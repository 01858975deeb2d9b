"""Each command does what the operators do, and says so to people and to programs."""

import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from testkit.database_equality import compare_databases
from testkit.postgres import Cluster
from tests.integration.cli.conftest import CLIENT_PATH, PG_S3, uri_of
from tests.integration.conftest import only_on
from tests.support.stored_backups import Shelf

pytestmark = only_on("moto")
SHOP = """
create table orders (id int primary key, note text);
insert into orders select i, 'note ' || i from generate_series(1, 1000) i;
create schema audit; create table audit.log as select 1 as i;
"""


def test_a_backup_is_listed_shown_restored_verified_and_pruned(
    pg18: Cluster, made, pg_s3, repository, new_name, spool_dir
):
    done = made(SHOP, "--label", "release=42", "--jobs", "1", name="my shop")
    folder, source = done["uri"].rpartition("/")[0], done["database"]
    assert (done["tables"], done["rows"]) == (2, 1001)

    listed = pg_s3("list", repository, "--label", "release=42")
    assert listed.code == 0
    assert [line.split("  ")[0] for line in listed.out.splitlines()] == ["database", source]
    (row,) = pg_s3("list", repository, "--output", "json", "--limit", "1").json
    assert (row["uri"], row["labels"], row["verified"]) == (done["uri"], {"release": "42"}, False)

    nobodys = pg_s3("list", repository, "--database", "nobody")
    assert (nobodys.code, nobodys.out) == (0, "")
    assert f"there is no backup of 'nobody' in {repository}: there are some of {source}" in nobodys.err
    unlabelled = pg_s3("list", repository, "--label", "release=43")
    assert f"no backup in {repository} is of those asked for" in unlabelled.err
    too_deep = pg_s3("list", folder)
    assert (too_deep.code, too_deep.out) == (2, "")
    assert f"write {repository}, and name the database" in too_deep.err

    copy = new_name(pg18, "copy")
    work = ("--spool-dir", str(spool_dir), *CLIENT_PATH)
    password = {"PGPASSWORD": pg18.password}
    restored = pg_s3("restore", f"{folder}/latest", uri_of(pg18, copy), *work, "--output", "json", **password)
    assert restored.code == 0, restored.err
    assert restored.json["rows"] == 1001
    assert compare_databases(pg18.dsn(source), pg18.dsn(copy)) == []

    again = pg_s3("restore", f"{folder}/latest", uri_of(pg18, copy), *work, **password)
    assert again.code == 2
    assert "is not empty" in again.err
    assert "give --if-exists clean to drop" in again.err
    assert "Traceback" not in again.err
    part = pg_s3(
        "restore", f"{folder}/{done['backup_id'][:12]}", uri_of(pg18, copy), "--table", "audit.*", "--if-exists",
        "clean", "--no-single-transaction", *work, **password,
    )  # fmt: skip
    assert part.code == 0, part.err
    assert f"is {done['uri']}" in part.err
    assert re.fullmatch(rf"restored {done['backup_id']} into {re.escape(copy)}: 1 table, 1 row, .* s\n", part.out)
    assert "restored " not in part.err

    verified = pg_s3("verify", done["uri"], "--server", uri_of(pg18), *work, "--output", "json", **password)
    assert verified.code == 0, verified.err
    assert (verified.json["outcome"], verified.json["differences"]) == ("verified", [])
    read = pg_s3("verify", done["uri"], "--level", "checksum")
    assert re.fullmatch(
        r"backup \S+ of .* is verified: every object read, 2 tables, 1,001 rows \(.* s\)\n", read.out
    )
    assert re.search(r"^read ([\d.]+ \w+) of \1, ", read.err, re.MULTILINE)
    shown = pg_s3("show", f"{folder}/latest-verified")
    assert re.search(r"^verified +yes$", shown.out, re.MULTILINE)
    assert re.search(r"^public\.orders +1,000 ", shown.out, re.MULTILINE)
    assert f"FOLDER={folder} BACKUP={done['backup_id']}" in shown.out
    facts = pg_s3("show", f"{folder}/latest", "--output", "json").json
    assert [(one["schema"], one["name"], one["rows"]) for one in facts["contents"]] == [
        ("public", "orders", 1000),
        ("audit", "log", 1),
    ]
    assert (facts["verified"], facts["server"]["version"]) == (True, pg18.version)

    pruned = pg_s3("prune", repository, "--keep-last", "1", "--dry-run", "--output", "json")
    assert pruned.code == 0
    assert pruned.json["counts"] == {"kept": 1, "deleted": 0, "protected": 0, "unreadable": 0, "orphans": 0}


def test_the_uri_of_a_backup_is_all_that_goes_to_standard_output(pg18: Cluster, pg_s3, repository, new_database):
    database = new_database(pg18, "create table t as select 1 as i")
    done = pg_s3("backup", uri_of(pg18, database), repository, *CLIENT_PATH, PGPASSWORD=pg18.password)
    assert re.fullmatch(rf"{re.escape(repository)}/.*\.json\n", done.out)
    assert "committed" in done.err
    quiet = pg_s3("backup", uri_of(pg18, database), repository, "-q", *CLIENT_PATH, PGPASSWORD=pg18.password)
    assert (quiet.code, quiet.err) == (0, "")


@pytest.mark.parametrize("way", ["PGPASSFILE", "~/.pgpass", "service", "arguments"])
def test_passwords_come_from_where_libpq_looks(pg18: Cluster, pg_s3, repository, new_database, tmp_path, way):
    """pg_dump and our own sessions log in with it; another one in the environment would be refused."""
    database = new_database(pg18, "create table t as select 1 as i")
    postgres, environment = uri_of(pg18, database), {}
    file = tmp_path / {"~/.pgpass": ".pgpass", "service": ".pg_service.conf"}.get(way, "passwords")
    line = f"*:{pg18.port}:*:{pg18.user}:{pg18.password}\n"
    if way == "arguments":
        postgres = postgres.replace("@", f":{pg18.password}@")
    elif way == "service":
        postgres = f"service=shop dbname='{database}'"
        line = f"[shop]\nhost={pg18.host}\nport={pg18.port}\nuser={pg18.user}\npassword={pg18.password}\n"
    elif way == "PGPASSFILE":
        environment = {"PGPASSFILE": str(file)}
    file.write_text(line)
    file.chmod(0o600)
    done = pg_s3("backup", postgres, repository, *CLIENT_PATH, **environment)
    assert done.code == 0, done.err
    assert ("warning: the password in the arguments" in done.err) == (way == "arguments")
    assert pg18.password not in done.err


def test_a_backup_that_fails_verification_or_cannot_be_verified_is_told_by_the_exit_code(
    pg18: Cluster, made, pg_s3, s3, bucket
):
    done = made(SHOP)
    check = pg_s3(
        "verify", done["uri"], "--server", uri_of(pg18), "--check", "select false", *CLIENT_PATH,
        PGPASSWORD=pg18.password,
    )  # fmt: skip
    assert (check.code, check.out) == (1, "")
    assert "error: backup " in check.err
    assert check.err.count("FAILED verification: check select false") == 1
    unreachable = pg_s3("verify", done["uri"], "--server", "postgresql://localhost:1/x", "--output", "json")
    assert (unreachable.code, unreachable.json["outcome"]) == (3, "could not verify")
    assert unreachable.json["reason"]


def test_a_list_says_whether_the_newest_backups_are_young_enough(s3, repository, pg_s3):
    shelf, now = Shelf(s3.client(), repository), datetime.now(UTC)
    shelf.put_backup("a", now - timedelta(hours=1))
    shelf.put_backup("b", now - timedelta(hours=5))
    assert pg_s3("list", repository, "--max-age", "6h").code == 0
    late = pg_s3("list", repository, "--max-age", "3h")
    assert late.code == 3
    assert "warning: the newest backup of 'b'" in late.err
    assert pg_s3("list", repository, "--max-age", "3h", "--database", "a").code == 0
    assert pg_s3("list", repository, "--max-age", "3h", "--database", "a", "--verified-only").code == 3
    assert pg_s3("list", repository + "/none", "--max-age", "3h").code == 3


def test_a_program_that_reads_no_further_ends_the_command_quietly(s3, repository, pg_s3, environment):
    shelf = Shelf(s3.client(), repository)
    for number in range(3):
        shelf.put_backup("a", datetime.now(UTC) - timedelta(hours=number))
    listing = subprocess.Popen(
        [PG_S3, "list", repository], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    listing.stdout.close()
    assert listing.stderr.read() == b""
    assert listing.wait() == 1
    listing.stderr.close()
