"""docs/migrating.md names every setting of the old system, and its connections are what Airflow takes."""

import re
from pathlib import Path

import pytest
from airflow.models.connection import Connection

DOCUMENT = (Path(__file__).parents[2] / "docs/migrating.md").read_text()
SETTINGS = [
    "MODE",
    "BACKUP_DATABASE_URL",
    "RESTORE_DATABASE_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_S3_REGION",
    "AWS_S3_BUCKET",
    "AWS_S3_ENDPOINT",
    "AWS_S3_FORCE_PATH_STYLE",
    "BUCKET_SUBFOLDER",
    "BACKUP_FILE_PREFIX",
    "RESTORE_FILE_KEY",
    "BACKUP_CRON_SCHEDULE",
    "RESTORE_CRON_SCHEDULE",
    "RUN_ON_STARTUP",
    "BACKUP_RUN_ON_STARTUP",
    "RESTORE_RUN_ON_STARTUP",
    "SINGLE_SHOT_MODE",
    "BACKUP_SINGLE_SHOT_MODE",
    "RESTORE_SINGLE_SHOT_MODE",
    "BACKUP_OPTIONS",
    "RESTORE_OPTIONS",
    "SUPPORT_OBJECT_LOCK",
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_has_a_row(setting):
    assert re.search(rf"^\| .*`{setting}`.* \| .{{10,}} \|$", DOCUMENT, re.MULTILINE)


def test_the_connections_are_what_airflow_takes():
    found = dict(re.findall(r"^export AIRFLOW_CONN_(\w+)='(.*)'$", DOCUMENT, re.MULTILINE))
    connections = {
        name: Connection.from_json(text) if text.startswith("{") else Connection(uri=text)
        for name, text in found.items()
    }
    assert {name: c.conn_type for name, c in connections.items()} == {
        "ORDERS_DB": "postgres",
        "STAGING_DB": "postgres",
        "BACKUP_ACCOUNT": "aws",
    }
    assert connections["ORDERS_DB"].extra_dejson == {"sslmode": "require"}
    assert connections["BACKUP_ACCOUNT"].extra_dejson["config_kwargs"] == {"s3": {"addressing_style": "path"}}


@pytest.mark.parametrize("anchor", sorted(set(re.findall(r"\]\(#([^)]+)\)", DOCUMENT))))
def test_every_anchor_leads_somewhere(anchor):
    headings = re.findall(r"^#+ (.*)$", DOCUMENT, re.MULTILINE)
    assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
