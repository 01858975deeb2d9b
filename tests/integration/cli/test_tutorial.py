"""The commands of docs/tutorial.md and of other pages, as they stand there, run as a person would."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest

from testkit.postgres import Cluster
from tests.integration.cli.conftest import PG_S3
from tests.integration.conftest import only_on
from tests.support.documents import ROOT, run_bash

pytestmark = only_on("moto")


@pytest.fixture
def variables(pg18: Cluster, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """What the tutorial exports, and nothing else, for servers of ours."""
    server = {"PGHOST": pg18.host, "PGPORT": str(pg18.port), "PGUSER": pg18.user, "PGPASSWORD": pg18.password}
    known = environment | server
    exported = re.findall(r" ((?:PG|AWS_)\w+)=", (ROOT / "docs/tutorial.md").read_text())
    path = os.pathsep.join([str(pg18.pg_bin), environment["PATH"]])
    yield {name: known[name] for name in exported} | {"HOME": environment["HOME"], "PATH": path}
    for (name,) in pg18.connect().execute("select datname from pg_database where datname ~ '^orders'"):
        pg18.drop_database(name)


@pytest.fixture
def run(variables, bucket: str, tmp_path: Path) -> Callable[[str], str]:
    """(a document) → what its commands write, with a bucket of this test's own."""
    return lambda document: run_bash(
        document, lambda text: text.replace("my-backups", bucket), variables, tmp_path
    )


@pytest.fixture
def pg_s3(variables) -> Callable[..., str]:
    """(*arguments) → what the command writes."""
    return lambda *arguments: (
        subprocess.run(
            [PG_S3, *arguments, "--quiet"], env=variables, check=True, capture_output=True, text=True
        ).stdout
    )


@pytest.fixture
def backups(pg_s3, bucket: str) -> Callable[[str], list[dict[str, Any]]]:
    """(repository) → its backups."""
    return lambda name: json.loads(pg_s3("list", f"s3://{bucket}/{name}", "--output", "json"))


def test_the_tutorial_ends_with_a_restored_table_and_a_proof(run, bucket: str, pg18: Cluster, s3):
    s3.client().delete_bucket(Bucket=bucket)
    written = run("docs/tutorial.md")
    assert re.search(r" count  \|  sum   \n-+\+-+\n 200000 \| 900000\n", written)
    assert pg18.psql("select count(*) from pg_indexes where tablename = 'lines'", "orders") == "2\n"
    assert pg18.psql("select count(*) from lines", "orders") == "202000\n"
    assert re.search(r"  verified \d+ \w+ ago", written)
    assert pg18.psql("select datname from pg_database where datname ~ '^orders'") == "orders\n"


def test_rows_come_back_into_a_live_table_and_sizes_are_told(run, pg_s3, bucket: str, pg18: Cluster):
    pg18.create_database("orders")
    pg18.psql(
        """
        create table customers (id int primary key, name text);
        insert into customers select n, 'n' from generate_series(1, 10) n;
        create table lines (id int primary key, customer int references customers, amount int);
        insert into lines select n, n % 10 + 1, 5 from generate_series(1, 100) n
        """,
        "orders",
    )
    pg_s3("backup", "orders", f"s3://{bucket}/production")
    pg18.psql("delete from lines where customer in (7, 9)", "orders")
    pg18.psql(
        "update lines set amount = 0 where customer = 8; update lines set amount = 1 where customer = 1", "orders"
    )
    written = run("docs/how-to.md")
    assert pg18.psql("select amount, count(*) from lines group by 1 order by 1", "orders") == "1|10\n5|90\n"
    assert re.search(r'^"20..-..-..T[^"]*",110,\d+,\d+,\d+$', written, re.MULTILINE)
    assert re.search(r"^20..-..\t1\t\d+$", written, re.MULTILINE)
    assert re.search(r"^public\tlines\t100\t\d+\npublic\tcustomers\t10\t\d+$", written, re.MULTILINE)
    assert pg18.psql("select datname from pg_database where datname ~ '^orders'") == "orders\n"


def test_one_table_comes_back_dropped_or_not_and_no_other_is_touched(run, pg_s3, bucket: str, pg18: Cluster):
    pg18.create_database("orders")
    pg18.psql("create table lines as select 1 as id; create table customers as select 1 as id", "orders")
    pg_s3("backup", "orders", f"s3://{bucket}/production")
    pg18.psql("drop table lines; update customers set id = 2", "orders")
    run("docs/restores.md")
    assert pg18.psql("select lines.id, customers.id from lines, customers", "orders") == "1|2\n"


def test_backups_that_still_need_an_old_key_are_named(
    variables, pg_s3, backups, bucket: str, pg18: Cluster, tmp_path
):
    old, new = (str(pyrage.x25519.Identity.generate().to_public()) for _ in range(2))
    pg18.create_database("orders")
    for recipients in ([old], [old, new], [new], []):
        keys = [f"--age-recipient={recipient}" for recipient in recipients]
        pg_s3("backup", "orders", f"s3://{bucket}/production", *keys)

    def edit(text: str) -> str:
        return text.replace("my-backups", bucket).replace("age1…", old)

    written = run_bash("docs/encryption.md", edit, variables, tmp_path)
    assert written.split() == [backup["uri"] for backup in backups("production")[2:]]


def test_a_backup_is_held_by_its_label_and_an_existing_one_as_a_copy(
    run, pg_s3, backups, bucket: str, pg18: Cluster
):
    pg18.create_database("orders")
    written = run("docs/retention.md")
    (held,) = backups("production")
    assert f"{held['uri']} audit 2026\n" in written
    (copy,) = backups("held")
    assert copy["backup_id"] == held["backup_id"]
    pg_s3("backup", "orders", f"s3://{bucket}/production")
    pg_s3("prune", f"s3://{bucket}/production", "--keep-last", "1")
    assert backups("production")[1:] == [held]
