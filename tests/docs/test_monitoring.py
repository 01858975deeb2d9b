"""What docs/monitoring.md shows is what Airflow takes, and what the code says."""

import re

import jinja2
import pytest
from airflow.dag_processing.dagbag import DagBag

from airflow_pg_s3.core.repository.freshness import BACKUPS_LOOKED_AT
from airflow_pg_s3.telemetry.metrics import GAUGES
from tests.support.documents import ROOT, blocks

DOCUMENT = (ROOT / "docs/monitoring.md").read_text()
SNIPPETS = blocks("docs/monitoring.md", "python")


@pytest.mark.parametrize(
    ("snippet", "dag_id", "tasks"),
    [
        (0, "orders_backups_are_young", ["backed_up", "verified"]),
        (1, "orders_backup_with_news", ["backup"]),
        (2, "orders_backup", ["backup"]),
    ],
)
def test_its_dags_can_be_imported(tmp_path, snippet, dag_id, tasks):
    (tmp_path / "airflow_dag.py").write_text(SNIPPETS[snippet])
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    assert {dag.dag_id: dag.task_ids for dag in bag.dags.values()} == {dag_id: tasks}


def test_the_news_have_database_sizes_and_duration(tmp_path):
    (tmp_path / "airflow_dag.py").write_text(SNIPPETS[1])
    (task,) = DagBag(tmp_path).dags["orders_backup_with_news"].tasks
    slack, mail = task.on_success_callback
    made = {
        "database": "orders", "raw_bytes": 240_900_000_000, "new_stored_bytes": 2_100_000_000,
        "duration_seconds": 2460.5, "uri": "s3://my-backups/production/orders/1.json",
    }  # fmt: skip

    class Ti:
        def xcom_pull(self, task_ids):
            return {"backup": made}[task_ids]

    def rendered(text):
        return jinja2.Environment().from_string(text).render(ti=Ti())

    told = (
        "orders is backed up: 240.9 GB, of which 2.1 GB are new on S3, in 41.0 min "
        "(s3://my-backups/production/orders/1.json)"
    )
    assert rendered(slack.text) == rendered(mail.html_content) == told
    assert rendered(mail.subject) == "Backup of orders"


def test_each_gauge_has_a_row():
    rows = re.findall(r"^\| `(pg_s3\.[\w.]+)` \|", DOCUMENT, re.MULTILINE)
    assert rows == [f"pg_s3.{what}.{name}" for what, names in GAUGES.items() for name in names]


def test_there_are_no_other_snippets():
    assert len(SNIPPETS) == 3


def test_it_says_how_far_the_search_goes():
    assert f"newest {BACKUPS_LOOKED_AT:,} backups are checked" in DOCUMENT
