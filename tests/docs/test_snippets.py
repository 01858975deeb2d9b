"""Each Python snippet of each document is a DAG file that can be copied and pasted."""

from pathlib import Path

import pytest

from tests.support.documents import ROOT, blocks, parse_dags

PAGES = [path.relative_to(ROOT) for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]]


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in (ROOT / page).read_text()], ids=str)
def test_each_snippet_is_a_dag_file_and_no_two_have_the_same_dag(page: Path, tmp_path: Path) -> None:
    dags = parse_dags(str(page), tmp_path).dags.values()
    assert (ROOT / page).read_text().count("```python") == len(blocks(str(page), "python"))
    assert len({dag.fileloc for dag in dags}) == len(dags) == len(blocks(str(page), "python"))
    assert all(dag.tasks for dag in dags)
