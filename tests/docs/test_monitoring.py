"""What docs/monitoring.md shows is what Airflow takes, and what the code says."""

import re
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from airflow_pg_s3.core.repository.freshness import BACKUPS_LOOKED_AT

DOCUMENT = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("snippet", "dag_id", "tasks"),
    [(0, "orders_backups_are_young", ["backed_up", "verified"]), (1, "orders_backup", ["backup"])],
)
def test_its_dags_can_be_imported(tmp_path, snippet, dag_id, tasks):
    (tmp_path / "airflow_dag.py").write_text(SNIPPETS[snippet])
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    assert {dag.dag_id: dag.task_ids for dag in bag.dags.values()} == {dag_id: tasks}


def test_there_are_no_other_snippets():
    assert len(SNIPPETS) == 2


def test_it_says_how_far_the_search_goes():
    assert f"newest {BACKUPS_LOOKED_AT:,} backups are checked" in DOCUMENT
