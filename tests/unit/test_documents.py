"""The paths of documents that messages name."""

import sys
from pathlib import Path

from airflow_pg_s3.core import documents


def test_a_source_tree_has_its_own():
    assert Path(documents.document("recovery.md")).read_text().startswith("# ")


def test_a_wheel_has_put_them_beside_the_interpreter(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(documents, "_ROOT", tmp_path)
    expected = f"{sys.prefix}/share/doc/airflow-provider-pg-s3/docs/recovery.md"
    assert documents.document("recovery.md") == expected
