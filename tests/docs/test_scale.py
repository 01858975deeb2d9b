"""What docs/scale.md shows is what Airflow takes."""

import re
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

DOCUMENT = (Path(__file__).parents[2] / "docs/scale.md").read_text()


def test_its_dag_can_be_imported(tmp_path):
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (tmp_path / "airflow_dag.py").write_text(snippet)
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    assert [dag.task_ids for dag in bag.dags.values()] == [["prune", "young"]]
