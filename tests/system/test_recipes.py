"""docs/migrating.md: what ran at startup, and what ran once, as the documented recipes do it."""

import json
import os
import subprocess
import sys

import pytest

from airflow_pg_s3.core.repository.repository import read_manifest
from tests.support.airflow_versions import VERSION, DagBag, sync_bag_to_db
from tests.support.documents import ROOT, blocks
from tests.support.sampling import sample
from tests.system.conftest import link_alone


def test_the_recipe_for_each_deployment_runs_once_and_names_the_release(
    airflow_database, shop, tmp_path, monkeypatch
) -> None:
    (recipe,) = (snippet for snippet in blocks("docs/migrating.md", "python") if "@once" in snippet)
    (tmp_path / "recipe.py").write_text(recipe.replace("my-bucket", shop.bucket))
    monkeypatch.setenv("APP_VERSION", "1.2.3")
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_DB", shop.cluster.airflow_connection(shop.database))
    monkeypatch.setenv("AIRFLOW_CONN_BACKUP_ACCOUNT", shop.s3.airflow_connection())
    bag = DagBag(tmp_path)
    (dag,) = bag.dags.values()
    assert dag.dag_id == "orders_backup_at_deployment_1.2.3"
    assert dag.schedule == "@once"
    assert dag.is_paused_upon_creation is False

    sync_bag_to_db(bag, "shipped", None)
    assert dag.test(logical_date=None).state == "success"
    client = shop.s3.client()
    found = client.list_objects_v2(Bucket=shop.bucket)["Contents"]
    (key,) = (entry["Key"] for entry in found if entry["Key"].endswith(".json"))
    assert read_manifest(client, f"s3://{shop.bucket}/{key}")[0].labels == {"release": "1.2.3"}


@pytest.mark.parametrize(("exists", "status"), sample([(True, 0), (False, 1)], 1, "single shot"))
def test_a_single_shot_ends_with_the_status_of_its_outcome(
    airflow_database, dag_files, shop, exists: bool, status: int
) -> None:
    link_alone(airflow_database, dag_files["pg_s3_backup"])
    conf = {"database": shop.database if exists else "no such database"}
    airflow = [sys.executable, "-m", "airflow", "dags"]
    environment = os.environ | {"AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags")}
    if VERSION == (3, 0):  # refuses the outlets of a DAG that it has not parsed: docs/migrating.md
        subprocess.run([*airflow, "reserialize"], env=environment, capture_output=True, check=True)
    argv = [*airflow, "test", "pg_s3_backup", "--conf", json.dumps(conf)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    found = shop.s3.client().list_objects_v2(Bucket=shop.bucket).get("Contents", [])
    assert any(entry["Key"].endswith(".json") for entry in found) == exists
