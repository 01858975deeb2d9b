"""The commands of docs/command-line.md, as they stand there, in their order; and the keys of what they write."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.postgres import Cluster
from tests.integration.cli.conftest import PG_S3
from tests.integration.conftest import only_on

pytestmark = only_on("moto")
DOCUMENT = (Path(__file__).parents[3] / "docs/command-line.md").read_text()
COMMANDS = re.findall(r"^    ((?:pg-s3|pg_restore) .*)$", DOCUMENT, re.MULTILINE)
SHOP = "create table lines (id int primary key, note text); insert into lines values (1, 'one')"


@pytest.fixture
def shop(pg18: Cluster) -> Iterator[Cluster]:
    pg18.create_database("orders")
    pg18.psql(SHOP, "orders")
    yield pg18
    for (name,) in pg18.connect().execute("select datname from pg_database where datname ~ '^(orders|staging)'"):
        pg18.drop_database(name)


@pytest.fixture
def shell(shop: Cluster, environment, repository, tmp_path: Path):
    """(a command of the document) → what it writes, run by bash in a folder of its own."""
    folder = tmp_path / "at home"
    (folder / ".local/share/bash-completion/completions").mkdir(parents=True)
    path = os.pathsep.join([str(Path(PG_S3).parent), str(shop.pg_bin), environment["PATH"]])
    further = {"PATH": path, "HOME": str(folder), "PGPASSWORD": shop.password}

    def run(command: str) -> str:
        server = f"postgresql://{shop.user}@{shop.host}:{shop.port}/"
        command = command.replace("s3://my-backups/production", repository)
        command = command.replace("s3://my-second-backups/production", f"{repository}/second")
        command = command.replace("postgresql://app@db/", server)
        done = subprocess.run(
            ["bash", "-c", command], env=environment | further, cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    return run


def test_every_command_of_the_document_runs_and_writes_the_keys_that_it_names(shell, shop: Cluster):
    keys: dict[str, set[str]] = {}
    for command in COMMANDS:
        program, verb = command.split(" ")[:2]
        has_facts = program == "pg-s3" and verb not in ("cat", "completion")
        written = shell(f"{command} --output json" if has_facts else command)
        if has_facts:
            facts = json.loads(written)
            keys.setdefault(verb, set()).update(facts[0] if isinstance(facts, list) else facts)
    assert shop.psql("select note from lines", "staging") == "one\n"
    for verb, found in keys.items():
        (row,) = re.findall(rf"^\| `{verb}` \| (.*) \|$", DOCUMENT, re.MULTILINE)
        documented = set(re.findall(r"`(\w+)`", row))
        of_manifest = {"server", "dump", "labels", "compression", "encryption", "producer", "format"}
        if verb == "show":
            assert {"uri", "verified", "verifications", "contents"} | of_manifest <= found
        else:
            assert found <= documented, verb
