"""What docs/scale.md shows is what Airflow takes."""

from tests.support.documents import parse_dags


def test_its_dag_can_be_imported(tmp_path):
    bag = parse_dags("docs/scale.md", tmp_path)
    assert [dag.task_ids for dag in bag.dags.values()] == [["prune", "young"]]
