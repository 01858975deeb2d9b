"""What the rest of Airflow sees of a task."""

import pytest

from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.hooks.repositories import name_of
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.plugin.plugin import URL_PREFIX
from airflow_pg_s3.telemetry import metrics
from airflow_pg_s3.telemetry.lineage import DatasetName, Movement, database_dataset, lineage, repository_dataset
from airflow_pg_s3.telemetry.links import BackupsPageLink, S3ConsoleLink, backup_links, console_url, page_url
from airflow_pg_s3.telemetry.stages import StagedLog
from tests.support.airflow_versions import since

URI = "s3://my-backups/production/orders%20%26%20co/20261122T030000Z-5f3a9c.json"


class Lines(list):
    def info(self, message, *args):
        self.append(message % args)


def test_stages_are_groups_of_which_one_is_open_at_most():
    lines = Lines()
    log = StagedLog(lines)
    log.end_stage()
    log.begin_stage("Preflight")
    log.begin_stage("Dump")
    log.info("read %d", 7)
    log.end_stage()
    log.end_stage()
    assert lines == ["::group::Preflight", "::endgroup::", "::group::Dump", "read 7", "::endgroup::"]


@pytest.mark.parametrize(
    ("endpoint", "region", "starts"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "eu-central-1", "https://console.aws.amazon.com/s3/object/"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "https://console.amazonaws.cn/s3/object/"),
        ("https://s3.example.com", "us-east-1", None),
    ],
)
def test_the_link_leads_to_the_object_in_amazons_console_and_nowhere_for_other_stores(
    new_s3_client, endpoint, region, starts
):
    client = new_s3_client(endpoint)
    client.meta._client_config.region_name = region
    client.meta._partition = "aws-cn" if region.startswith("cn-") else "aws"
    key = "production%2Forders%2520%2526%2520co%2F20261122T030000Z-5f3a9c.json"
    assert console_url(client, URI) == (f"{starts}my-backups?region={region}&prefix={key}" if starts else "")


@pytest.mark.parametrize(
    ("version", "expected"), [("3.0.6", [S3ConsoleLink]), ("3.1.0", [BackupsPageLink, S3ConsoleLink])]
)
def test_there_is_no_button_for_a_page_that_this_airflow_does_not_show(version, expected):
    assert [type(link) for link in backup_links(version)] == expected


@since(3, 1, "place for the Backups page")
def test_the_buttons_show_what_the_operator_has_left():
    operator = PgS3BackupOperator(task_id="backup", repository="s3://b/x")
    page, console = operator.operator_extra_links
    assert (type(page), type(console)) == (BackupsPageLink, S3ConsoleLink)
    assert [link.get_link(operator, ti_key=None) for link in (page, console)] == ["", ""]
    operator.console_url = "https://console.aws.amazon.com/s3/object/b"
    operator.page_url = "https://airflow.example.com/pg-s3/#production/orders/1"
    assert console.get_link(operator, ti_key=None) == operator.console_url
    assert page.get_link(operator, ti_key=None) == operator.page_url


def test_a_backup_of_a_named_repository_has_an_address_on_the_page(monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/base/")
    named = '[{"name": "other", "uri": "s3://b"}, {"name": "my", "uri": "s3://my-backups/production/"}]'
    monkeypatch.setenv("AIRFLOW__PG_S3__REPOSITORIES", named)
    assert name_of(URI) == "my"
    assert name_of("s3://my-backups/orders/20261122T030000Z-5f3a9c.json") is None
    assert page_url("my", URI) == (
        f"https://airflow.example.com/base{URL_PREFIX}/#my/orders%20%26%20co/20261122T030000Z-5f3a9c"
    )


def test_openlineage_gets_where_data_came_from_and_went_to_and_how_much():
    source = database_dataset(ConnectionParameters(database="orders", keywords={"host": "db", "port": "6000"}))
    target = repository_dataset("s3://my-backups/production/orders/20261122T030000Z-5f3a9c.json")
    assert source == DatasetName("postgres://db:6000", "orders")
    assert target == DatasetName("s3://my-backups", "production/orders")
    found = lineage(Movement(source=source, target=target, rows=7, raw_bytes=100))
    ((inputs,), (outputs,)) = found.inputs, found.outputs
    assert (inputs.namespace, inputs.name, outputs.namespace, outputs.name) == (*source, *target)
    statistics = outputs.outputFacets["outputStatistics"]
    assert (statistics.rowCount, statistics.size) == (7, 100)
    assert lineage(None).inputs == []


def test_gauges_have_the_facts_that_are_known_with_their_database(monkeypatch):
    gauges = {}
    monkeypatch.setattr(metrics.Stats, "gauge", lambda name, value, tags: gauges.update({name: (value, tags)}))
    of_orders = {"database": "orders"}
    metrics.measure("backup", of_orders | {"raw_bytes": 300, "stored_bytes": 100, "rows": 7, "tables": 2})
    assert gauges == {
        "pg_s3.backup.raw_bytes": (300, of_orders),
        "pg_s3.backup.stored_bytes": (100, of_orders),
        "pg_s3.backup.ratio": (3.0, of_orders),
        "pg_s3.backup.rows": (7, of_orders),
    }
    gauges.clear()
    metrics.measure("restore", of_orders | {"rows": None, "raw_bytes": 0})
    metrics.measure("backup", of_orders | {"raw_bytes": 0, "stored_bytes": 0})
    assert "pg_s3.restore.rows" not in gauges
    assert "pg_s3.backup.ratio" not in gauges
