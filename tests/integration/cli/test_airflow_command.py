"""`airflow pg-s3` does what `pg-s3` does, with Airflow's connections; every start of Airflow imports little."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest

from airflow_pg_s3.airflow_cli import command
from airflow_pg_s3.airflow_cli.definition import get_commands
from airflow_pg_s3.get_provider_info import get_provider_info
from testkit.postgres import Cluster
from tests.integration.conftest import only_on

IMPORTS = """
import sys
import airflow.cli.cli_config
before = set(sys.modules)
from airflow_pg_s3.airflow_cli.definition import get_commands
get_commands()
print(*sorted(set(sys.modules) - before))
"""


@pytest.fixture
def airflow_pg_s3(capfd):
    """(*arguments) → exit code, what it wrote as JSON (None if nothing), standard error."""

    def run(*arguments: str) -> tuple[int, object, str]:
        with pytest.raises(SystemExit) as ended:
            command.run(Namespace(arguments=list(arguments)))
        written = capfd.readouterr()
        return ended.value.code, json.loads(written.out) if written.out else None, written.err

    return run


@only_on("moto")
def test_it_backs_up_lists_verifies_and_restores(
    pg16: Cluster, new_database, new_name, connections, repository: str, spool_dir, airflow_pg_s3
):
    named = [{"name": "shops", "uri": repository, "aws_conn_id": "aws"}]
    connections.set_option("repositories", json.dumps(named))
    database, copy = new_database(pg16, "create table t as select 1 as i"), new_name(pg16)
    connections.source(pg16, database)
    common = ("--output", "json", "--spool-dir", str(spool_dir))
    code, made, _ = airflow_pg_s3("backup", "shops", "--postgres-conn-id", "pg_source", *common)
    assert (code, made["database"]) == (0, database)
    code, listed, _ = airflow_pg_s3("list", repository, "--aws-conn-id", "aws", "--output", "json")
    assert [row["uri"] for row in listed] == [made["uri"]]
    where = (made["uri"], "--aws-conn-id", "aws", "--postgres-conn-id", "pg_source", *common)
    code, verified, _ = airflow_pg_s3("verify", *where)
    assert (code, verified["outcome"]) == (0, "verified")
    code, restored, _ = airflow_pg_s3("restore", *where, "--database", copy)
    assert (code, restored["database"], restored["rows"]) == (0, copy, 1)


@only_on("moto")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("list nowhere", "[pg_s3] repositories (no names yet), not 'nowhere'"),
        ("backup s3://b/p --postgres-conn-id missing", "the Airflow connection 'missing' does not exist"),
        ("list s3://b/p --aws-conn-id missing", 'or give --aws-conn-id "" to use the machine'),
        ("prune s3://b/p --profile me", "unrecognized arguments: --profile me"),
        ("completion bash", "invalid choice: 'completion'"),
        ("", "the following arguments are required: COMMAND"),
    ],
)
def test_what_cannot_work_is_one_sentence(connections, airflow_pg_s3, arguments, says):
    code, _, error = airflow_pg_s3(*arguments.split())
    assert (code, says in error) == (2, True), error
    assert "Traceback" not in error


def test_what_airflow_logs_is_not_among_the_results(monkeypatch, capfd):
    def log_and_print(*given: object) -> int:
        os.write(1, b"of a logger\n")
        given[-1].write("result\n")
        return 0

    monkeypatch.setattr(command, "run_command", log_and_print)
    with pytest.raises(SystemExit):
        command.run(Namespace(arguments=["list", "s3://b"]))
    assert capfd.readouterr() == ("result\n", "of a logger\n")


def test_what_every_start_of_airflow_imports_is_the_definition_alone():
    done = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True)
    # The package itself is imported by Airflow, for its version.
    imported = set(done.stdout.split()) - {"airflow_pg_s3"}
    assert imported == {"airflow_pg_s3.airflow_cli", "airflow_pg_s3.airflow_cli.definition"}


def test_airflow_runs_it_as_one_of_its_commands(monkeypatch):
    cli_parser = pytest.importorskip("airflow.cli.cli_parser")
    assert get_provider_info()["cli"] == [f"{get_commands.__module__}.{get_commands.__name__}"]
    parsed = cli_parser.get_parser().parse_args(["pg-s3", "list", "shops", "--output", "json"])
    assert parsed.arguments == ["list", "shops", "--output", "json"]
    asked: list[Namespace] = []
    monkeypatch.setattr(command, "run", asked.append)
    parsed.func(parsed)
    assert asked == [parsed]
