"""docs/installation.md: Airflow takes the options that it shows."""

import configparser

from airflow.dag_processing.bundles.manager import DagBundlesManager

from tests.support.documents import ROOT, blocks

EXAMPLE_DAGS = ROOT / "provider/airflow_pg_s3/example_dags"


def test_the_option_of_dag_bundles_reads_the_dag_folder_and_the_packages_dags(monkeypatch):
    shown = configparser.ConfigParser()
    shown.read_string("\n".join(blocks("docs/installation.md", "ini")))
    option = shown["dag_processor"]["dag_bundle_config_list"]
    folder = "/opt/airflow/lib/python3.12/site-packages/airflow_pg_s3/example_dags"
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", option.replace(folder, str(EXAMPLE_DAGS)))
    bundles = {bundle.name: bundle.path for bundle in DagBundlesManager().get_all_dag_bundles()}
    assert list(bundles) == ["dags-folder", "pg_s3"]
    assert bundles["pg_s3"] == EXAMPLE_DAGS
