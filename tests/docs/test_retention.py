"""What docs/retention.md shows is what Airflow takes."""

from tests.support.documents import parse_dags


def test_its_dag_can_be_imported(tmp_path):
    bag = parse_dags("docs/retention.md", tmp_path)
    assert {dag.dag_id: dag.task_ids for dag in bag.dags.values()} == {"orders_prune": ["prune"]}
