"""docker-compose.yaml and its Dockerfile, checked as far as that goes without a container engine."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.common.compat.sdk import Connection

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]
CONNECTIONS = {
    name: value for name, value in SERVICES["airflow"]["environment"].items() if name.startswith("AIRFLOW_CONN_")
}
# Environment and health check that each image's own documentation gives.
PORTS = {"source": 5432, "target": 5432, "s3": 7070}


def test_the_file_is_valid_against_the_compose_specification():
    subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE], check=True
    )


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_exists_and_can_come_true(name):
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert needed in SERVICES
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[needed]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert "restart" not in SERVICES[needed]


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_are_declared_and_mounted_files_exist(name):
    for volume in SERVICES[name].get("volumes", []):
        source, target, *_ = volume.split(":")
        assert target.startswith("/")
        assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]


def test_no_declared_volume_is_left_unused():
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert set(COMPOSE["volumes"]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_or_built_here(name):
    service = SERVICES[name]
    if "build" in service:
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    else:
        assert re.search(r":v?\d+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_published_ports_are_bound_to_the_loopback_address(name):
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("variable", CONNECTIONS)
def test_the_connections_are_those_of_the_services_that_they_name(variable):
    connection = Connection.from_json(CONNECTIONS[variable])
    if connection.conn_type == "aws":
        endpoint = re.fullmatch(r"http://(\w+):(\d+)", connection.extra_dejson["endpoint_url"])
        host, port = endpoint[1], int(endpoint[2])
        expected = (
            SERVICES[host]["environment"]["ROOT_ACCESS_KEY"],
            SERVICES[host]["environment"]["ROOT_SECRET_KEY"],
        )
        assert (connection.login, connection.password) == expected
    else:
        host, port = connection.host, connection.port
        assert connection.password == SERVICES[host]["environment"]["POSTGRES_PASSWORD"]
        # The staging database need not exist: a refresh makes it.
        assert connection.schema in (SERVICES[host]["environment"]["POSTGRES_DB"], "staging")
    assert port == PORTS[host]


def test_the_connections_have_the_names_that_the_dags_ask_for(monkeypatch):
    for name, value in SERVICES["airflow"]["environment"].items():
        if name.startswith("PG_S3_"):
            monkeypatch.setenv(name, value)
    asked = {
        dag.params[name]
        for dag in DagBag(ROOT / "dags").dags.values()
        for name in dag.params
        if name.endswith("conn_id") and dag.params[name]
    }
    assert {f"AIRFLOW_CONN_{name.upper()}" for name in asked} == set(CONNECTIONS)


def test_the_bucket_that_the_dags_write_to_is_the_one_that_is_made():
    airflow, maker = SERVICES["airflow"]["environment"], SERVICES["s3-bucket"]
    bucket = re.fullmatch(r"s3://([^/]+)/.*", airflow["PG_S3_REPOSITORY"])[1]
    (script,) = maker["command"]
    assert f'create_bucket(Bucket="{bucket}")' in script
    ast.parse(script)
    connection = json.loads(airflow["AIRFLOW_CONN_AWS_DEFAULT"])
    assert maker["environment"]["AWS_ENDPOINT_URL"] == connection["extra"]["endpoint_url"]
    assert maker["environment"]["AWS_ACCESS_KEY_ID"] == connection["login"]
    assert maker["environment"]["AWS_SECRET_ACCESS_KEY"] == connection["password"]


def test_the_image_gets_a_client_as_new_as_the_servers():
    client = int(re.search(r"^ARG PG_MAJOR=(\d+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)[1])
    assert {SERVICES[name]["image"] for name in ("source", "target")} == {f"postgres:{client}"}


def test_all_that_the_image_copies_is_in_the_build_context():
    copied = [
        word
        for line in re.findall(r"^COPY (.*)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
        for word in line.split()[:-1]
        if not word.startswith("--")
    ]
    kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert set(copied) == kept
    assert all((ROOT / path).exists() for path in copied)


def test_a_backup_can_be_verified_with_what_the_stack_has():
    server = SERVICES["airflow"]["environment"]["PG_S3_VERIFY_CONN_ID"]
    assert f"AIRFLOW_CONN_{server.upper()}" in CONNECTIONS
