"""What the DAGs of documents do; test_snippets.py parses them all, test_tutorial.py runs the commands of some."""

from tests.support.documents import parse_dags


def test_the_dag_of_the_tutorial_verifies_after_the_backup(tmp_path):
    (dag,) = parse_dags("docs/tutorial.md", tmp_path).dags.values()
    assert dag.task_dict["backup"].downstream_task_ids == {"verify"}
