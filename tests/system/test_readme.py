"""The DAGs of README.md and docs/tutorial.md, run as they say: they end with a restored table, and a proof."""

import re

import pytest

from tests.support.documents import ROOT, parse_dags, run_dags
from tests.system.conftest import BUNDLE


@pytest.fixture
def run(airflow_database, shop, tmp_path, monkeypatch):
    """(a document) → its DAGs, which have run between servers of ours."""

    def run(document: str) -> None:
        connections = {
            "ORDERS_DB": shop.cluster.airflow_connection(shop.database),
            "STAGING_DB": shop.cluster.airflow_connection(shop.target),
            "BACKUP_ACCOUNT": shop.s3.airflow_connection(),
        }
        exported = re.findall(r"^    export AIRFLOW_CONN_(\w+)='.*'$", (ROOT / document).read_text(), re.MULTILINE)
        for name in exported:
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}", connections[name])
        renamed = {
            "my-backups": shop.bucket,
            "production/orders": f"production/{shop.database}",
            "public.orders": "shop.orders",
        }
        pattern = re.compile("|".join(map(re.escape, renamed)))
        bag = parse_dags(document, tmp_path, lambda text: pattern.sub(lambda found: renamed[found[0]], text))
        run_dags(document, bag, BUNDLE)

    return run


def test_the_quick_start_ends_with_a_restored_table(run, shop):
    run("README.md")
    count = "SELECT count(*) FROM shop.orders"
    assert shop.cluster.psql(count, shop.target) == shop.cluster.psql(count, shop.database)


def test_the_tutorial_ends_with_a_verified_backup(run, shop):
    run("docs/tutorial.md")
    keys = [entry["Key"] for entry in shop.s3.client().list_objects_v2(Bucket=shop.bucket)["Contents"]]
    assert [key for key in keys if key.endswith(".verified.json")] != []
