"""Each package's docstring is a table of contents: it names what is in the package, and nothing else."""

import re
from pathlib import Path

import pytest

from airflow_pg_s3 import core

ROOT = Path(core.__file__).parent
PACKAGES = [path.parent for path in ROOT.rglob("__init__.py") if path.parent != ROOT]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(ROOT)))
def test_a_package_names_its_files(package: Path) -> None:
    lines = (package / "__init__.py").read_text().splitlines()
    entries = " ".join(line for line in lines if line.startswith("``"))
    names = re.findall(r"``(\w+)``", entries)
    files = [path.stem for path in package.glob("*.py") if path.stem != "__init__"]
    folders = [path.parent.name for path in package.glob("*/__init__.py")]
    assert sorted(names) == sorted(files + folders)
