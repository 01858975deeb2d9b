"""The quick start of README.md, done as it says: it ends with a restored table."""

import re
from pathlib import Path

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

from airflow_pg_s3.operators import base
from airflow_pg_s3.telemetry import metrics
from airflow_pg_s3.telemetry.stages import StagedLog
from tests.system.conftest import BUNDLE

README = (Path(__file__).parents[2] / "README.md").read_text()


class Lines(list):
    """A log in a list."""

    def info(self, message, *args):
        self.append(message % args)

    warning = info


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

    gauges = {}
    monkeypatch.setattr(metrics.Stats, "gauge", lambda name, value, tags: gauges.update({name: tags["database"]}))
    lines = Lines()
    monkeypatch.setattr(base, "StagedLog", lambda _: StagedLog(lines))
    bag = DagBag(tmp_path)
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, BUNDLE, None)
    for command in re.findall(r"^    airflow dags test (\w+)$", README, re.MULTILINE):
        assert bag.dags[command].test(logical_date=None).state == "success"
    # The same runs, as the rest of Airflow sees them.
    marks = [re.match(r"(::.*|committed|restored)?", line)[0] for line in lines]
    assert [mark for mark in marks if mark] == [
        "::group::Preflight", "::endgroup::", "::group::Dump", "::endgroup::", "::group::Commit", "::endgroup::",
        "committed",
        "::group::Preflight", "::endgroup::", "::group::Restore", "::endgroup::", "::group::Commit",
        "::endgroup::", "restored",
    ]  # fmt: skip
    assert gauges.items() >= {("pg_s3.backup.stored_bytes", shop.database), ("pg_s3.restore.rows", shop.target)}
    count = "SELECT count(*) FROM shop.orders"
    assert shop.cluster.psql(count, shop.target) == shop.cluster.psql(count, shop.database)
