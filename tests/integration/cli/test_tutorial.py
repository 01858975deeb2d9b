"""The commands of docs/tutorial.md and docs/how-to.md, as they stand there, run as a person would."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.postgres import Cluster
from tests.integration.conftest import only_on
from tests.support.documents import ROOT, run_bash

pytestmark = only_on("moto")


@pytest.fixture
def variables(pg18: Cluster, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """What the tutorial exports, for servers of ours."""
    server = {"PGHOST": pg18.host, "PGPORT": str(pg18.port), "PGUSER": pg18.user, "PGPASSWORD": pg18.password}
    path = os.pathsep.join([str(pg18.pg_bin), environment["PATH"]])
    yield environment | server | {"PATH": path}
    for (name,) in pg18.connect().execute("select datname from pg_database where datname ~ '^orders'"):
        pg18.drop_database(name)


@pytest.fixture
def run(variables, bucket: str, tmp_path: Path) -> Callable[[str], str]:
    """(a document) → what its commands write, with a bucket of this test's own."""
    return lambda document: run_bash(
        document, lambda text: text.replace("my-backups", bucket), variables, tmp_path
    )


def test_the_tutorial_ends_with_a_restored_table_and_a_proof(run, bucket: str, variables, pg18: Cluster, s3):
    s3.client().delete_bucket(Bucket=bucket)
    exported = re.findall(r" ((?:PG|AWS_)\w+)=", (ROOT / "docs/tutorial.md").read_text())
    assert set(exported) <= set(variables)
    written = run("docs/tutorial.md")
    assert re.search(r" count  \|  sum   \n-+\+-+\n 200000 \| 900000\n", written)
    assert pg18.psql("select count(*) from pg_indexes where tablename = 'lines'", "orders") == "2\n"
    assert pg18.psql("select count(*) from lines", "orders") == "202000\n"
    assert "verified" in written
    assert pg18.psql("select datname from pg_database where datname ~ '^orders'") == "orders\n"
