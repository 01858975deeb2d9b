"""Airflow finds the provider by its entry point; these tests ask Airflow, not our own dictionary."""

import importlib
import json
import os
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import jsonschema
import pytest
from airflow.providers.common.compat.sdk import BaseOperator

import airflow_pg_s3.operators
from airflow_pg_s3.get_provider_info import get_provider_info

DISTRIBUTION = "airflow-provider-pg-s3"


@pytest.fixture(scope="module")
def airflow_cli(tmp_path_factory):
    """Run the installed ``airflow`` command with a home of its own."""
    home = tmp_path_factory.mktemp("airflow_home")

    def run(*arguments: str) -> str:
        return subprocess.run(
            [Path(sys.executable).with_name("airflow"), *arguments],
            env=os.environ | {"AIRFLOW_HOME": str(home), "COLUMNS": "300"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    return run


def test_the_metadata_module_imports_nothing_but_its_own_package():
    script = (
        "import sys; before = set(sys.modules); import airflow_pg_s3.get_provider_info as m; "
        "m.get_provider_info(); print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert loaded == ["airflow_pg_s3", "airflow_pg_s3.get_provider_info"]


def test_the_metadata_is_valid_against_airflows_schema():
    schema = json.loads(resources.files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_entry_point_leads_to_the_metadata():
    (entry_point,) = metadata.entry_points(
        group="apache_airflow_provider", module="airflow_pg_s3.get_provider_info"
    )
    assert entry_point.dist.name == DISTRIBUTION
    assert entry_point.load()() == get_provider_info()


def test_exactly_the_modules_that_define_an_operator_are_declared():
    with_operator = set()
    for path in Path(airflow_pg_s3.operators.__file__).parent.glob("*.py"):
        module = importlib.import_module(f"airflow_pg_s3.operators.{path.stem}")
        own = [member for member in vars(module).values() if getattr(member, "__module__", "") == module.__name__]
        if any(hasattr(member, "execute") and member.execute is not BaseOperator.execute for member in own):
            with_operator.add(module.__name__)
    declared = [name for entry in get_provider_info()["operators"] for name in entry["python-modules"]]
    assert sorted(declared) == sorted(with_operator)


def test_airflow_lists_the_provider_with_its_version(airflow_cli):
    listed = json.loads(airflow_cli("providers", "list", "--output", "json"))
    ours = [row for row in listed if row["package_name"] == DISTRIBUTION]
    assert [row["version"] for row in ours] == [metadata.version(DISTRIBUTION)]


def test_airflow_shows_the_operators(airflow_cli):
    shown = airflow_cli("providers", "get", DISTRIBUTION, "--full", "--output", "json")
    for module in ("backup", "list_backups", "restore"):
        assert f"airflow_pg_s3.operators.{module}" in shown


@pytest.mark.parametrize("option", ["client_path", "repositories"])
def test_airflow_knows_each_option_and_its_default(airflow_cli, option):
    assert airflow_cli("config", "get-value", "pg_s3", option).strip() == ""
