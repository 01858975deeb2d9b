"""The DAGs of docs/how-to.md and docs/tutorial.md; tests/integration/cli/test_tutorial.py runs their commands."""

from tests.support.documents import parse_dags


def test_the_dags_of_the_common_tasks_can_be_imported(tmp_path):
    bag = parse_dags("docs/how-to.md", tmp_path)
    assert {dag.dag_id: dag.task_ids for dag in bag.dags.values()} == {
        "orders_every_six_hours": ["backup"],
        "refresh_staging": ["restore"],
        "orders_backup_cheap": ["backup"],
    }


def test_the_dag_of_the_tutorial_verifies_after_the_backup(tmp_path):
    (dag,) = parse_dags("docs/tutorial.md", tmp_path).dags.values()
    assert dag.task_dict["backup"].downstream_task_ids == {"verify"}
