"""What Airflow loads at every start is small; what it shows is complete."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from airflow_pg_s3.airflow_version import has_external_views
from airflow_pg_s3.plugin.plugin import BackupsPlugin
from tests.support.airflow_versions import since

NEW_MODULES = """
import sys
import airflow.plugins_manager
before = set(sys.modules)
import airflow_pg_s3.plugin.plugin
print(*sorted(set(sys.modules) - before))
"""


@since(3, 1, "place for the Backups page")
def test_airflow_finds_the_plugin_and_its_view_leads_to_its_app():
    (found,) = entry_points(group="airflow.plugins", name="pg_s3_backups")
    assert found.load() is BackupsPlugin
    (app,), (view,) = BackupsPlugin.fastapi_apps, BackupsPlugin.external_views
    # Relative: Airflow may live below a path.
    assert view["href"] == app["url_prefix"].removeprefix("/") + "/"


def test_it_imports_nothing_that_shows_pages():
    run = subprocess.run([sys.executable, "-c", NEW_MODULES], capture_output=True, text=True, check=True)
    new = run.stdout.split("\n")[-2].split()
    ours = [name for name in new if name.startswith("airflow_pg_s3.")]
    assert ours == ["airflow_pg_s3.airflow_version", "airflow_pg_s3.plugin", "airflow_pg_s3.plugin.plugin"]
    assert not {name.partition(".")[0] for name in new} & {"fastapi", "boto3", "botocore", "psycopg", "pydantic"}


@pytest.mark.parametrize(
    ("version", "expected"), [("3.0.6", False), ("3.1.0", True), ("3.3.2", True), ("4.0.0rc1", True)]
)
def test_airflow_has_a_place_for_it_from_3_1_on(version, expected):
    assert has_external_views(version) is expected
