"""README.md: its snippets are what Airflow takes, and its links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_each_snippet_is_a_file_of_its_own_and_what_changes_a_database_runs_only_when_asked(tmp_path):
    found = snippets(ROOT / "README.md")
    for number, snippet in enumerate(found):
        (tmp_path / f"dag_{number}.py").write_text(snippet)
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    assert {dag.dag_id: (dag.task_ids, dag.schedule) for dag in bag.dags.values()} == {
        "orders_backup": (["backup"], "0 3 * * *"),
        "orders_from_backup": (["restore"], None),
    }
    assert len(found) == 2


def test_the_first_dag_starts_the_verification_of_each_new_backup(tmp_path, monkeypatch):
    (tmp_path / "snippet.py").write_text(snippets(ROOT / "README.md")[0])
    (task,) = DagBag(tmp_path).dags["orders_backup"].tasks
    monkeypatch.setenv("PG_S3_REPOSITORY", task.repository)
    awaited = DagBag(ROOT / "dags").dags["pg_s3_verify_new_backup"].timetable.asset_condition
    assert [asset.uri for asset in task.outlets] == [asset.uri for asset in awaited.objects]


def test_it_is_short():
    assert README.count("\n") < 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), (target, anchor)


def test_what_it_links_to_is_installed_with_the_package():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    installed = build["shared-data"]
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert target.split("/")[0] in installed, target
    assert all(place == f"share/doc/airflow-provider-pg-s3/{name}" for name, place in installed.items())
