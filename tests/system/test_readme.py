"""The DAGs of README.md and docs/tutorial.md, run as they say: they end with a restored table, and a proof."""

import re

import pytest

from airflow_pg_s3.hooks import pg_s3
from airflow_pg_s3.telemetry import metrics
from airflow_pg_s3.telemetry.stages import StagedLog
from tests.support.documents import ROOT, parse_dags, run_dags
from tests.system.conftest import BUNDLE


class Lines(list):
    """A log in a list."""

    def info(self, message, *args):
        self.append(message % args)

    warning = info


@pytest.fixture
def run(airflow_database, shop, tmp_path, monkeypatch):
    """(a document) → its DAGs have run, between servers of ours."""

    def run(document: str) -> None:
        connections = {
            "ORDERS_DB": shop.cluster.airflow_connection(shop.database),
            "STAGING_DB": shop.cluster.airflow_connection(shop.target),
            "BACKUP_ACCOUNT": shop.s3.airflow_connection(),
        }
        text = (ROOT / document).read_text()
        for name in re.findall(r"^    export AIRFLOW_CONN_(\w+)='.*'$", text, re.MULTILINE):
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}", connections[name])
        renamed = {
            "my-backups": shop.bucket,
            "production/orders": f"production/{shop.database}",
            "public.orders": "shop.orders",
        }
        shown = re.compile("|".join(map(re.escape, renamed)))
        bag = parse_dags(document, tmp_path, lambda text: shown.sub(lambda found: renamed[found[0]], text))
        run_dags(document, bag, BUNDLE)

    return run


def test_the_quick_start_ends_with_a_restored_table(run, shop, monkeypatch):
    gauges = {}
    monkeypatch.setattr(metrics.Stats, "gauge", lambda name, value, tags: gauges.update({name: tags["database"]}))
    lines = Lines()
    monkeypatch.setattr(pg_s3, "StagedLog", lambda _: StagedLog(lines))
    run("README.md")
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


def test_the_tutorial_ends_with_a_verified_backup(run, shop):
    run("docs/tutorial.md")
    keys = [entry["Key"] for entry in shop.s3.client().list_objects_v2(Bucket=shop.bucket)["Contents"]]
    assert [key for key in keys if key.endswith(".verified.json")] != []
