"""Where the documentation is on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_INSTALLED = Path("share/doc/airflow-provider-pg-s3/docs")


def document(name: str) -> str:
    """Return the path of a document: of a source tree, or where the wheel has put it.

    :param name: such as ``recovery.md``.
    """
    in_tree = _ROOT / "docs" / name
    if (_ROOT / "pyproject.toml").exists() and in_tree.exists():
        return str(in_tree)
    return str(Path(sys.prefix) / _INSTALLED / name)
