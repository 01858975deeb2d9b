"""README.md: its snippets are what Airflow takes, and its links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from tests.support.documents import ROOT, blocks, parse_dags

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_each_snippet_is_a_file_of_its_own_and_what_changes_a_database_runs_only_when_asked(tmp_path):
    bag = parse_dags("README.md", tmp_path)
    assert {dag.dag_id: (dag.task_ids, dag.schedule) for dag in bag.dags.values()} == {
        "orders_backup": (["backup"], "0 3 * * *"),
        "orders_from_backup": (["restore"], None),
    }
    assert len(blocks("README.md", "python")) == 2


def test_the_first_dag_starts_the_verification_of_each_new_backup(tmp_path, monkeypatch):
    (tmp_path / "snippet.py").write_text(blocks("README.md", "python")[0])
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
