"""The quick start of README.md, done as it says: it ends with a restored table."""

import re
from pathlib import Path

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

from tests.system.conftest import BUNDLE

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_quick_start_ends_with_a_restored_table(airflow_database, shop, tmp_path, monkeypatch):
    snippets = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for number, snippet in enumerate(snippets):
        for shown, here in (
            ("my-backups", shop.bucket),
            ("production/orders", f"production/{shop.database}"),
            ("public.orders", "shop.orders"),
        ):
            snippet = snippet.replace(shown, here)
        (tmp_path / f"dag_{number}.py").write_text(snippet)
    connections = dict(re.findall(r"^    export AIRFLOW_CONN_(\w+)='(.*)'$", README, re.MULTILINE))
    assert set(connections) == {"ORDERS_DB", "STAGING_DB", "BACKUP_ACCOUNT"}
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_DB", shop.cluster.airflow_connection(shop.database))
    monkeypatch.setenv("AIRFLOW_CONN_STAGING_DB", shop.cluster.airflow_connection(shop.target))
    monkeypatch.setenv("AIRFLOW_CONN_BACKUP_ACCOUNT", shop.s3.airflow_connection())

    bag = DagBag(tmp_path)
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, BUNDLE, None)
    for command in re.findall(r"^    airflow dags test (\w+)$", README, re.MULTILINE):
        assert bag.dags[command].test(logical_date=None).state == "success"
    count = "SELECT count(*) FROM shop.orders"
    assert shop.cluster.psql(count, shop.target) == shop.cluster.psql(count, shop.database)
