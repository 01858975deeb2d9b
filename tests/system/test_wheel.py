"""What is in the wheel that users install."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_pg_s3 import example_dags

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built by way of an archive of the source, as for an index."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [Path(sys.executable).with_name("uv"), "build", "--quiet", "--out-dir", folder, ROOT], check=True
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as opened:
        yield opened


def test_the_dags_are_in_the_wheel_once_and_as_they_are_in_the_repository(wheel):
    folder = "airflow_pg_s3/example_dags/"
    held = {name.removeprefix(folder): wheel.read(name) for name in wheel.namelist() if name.startswith(folder)}
    assert held == {path.name: path.read_bytes() for path in (ROOT / "dags").glob("*.py")}
    assert [name for name in wheel.namelist() if name.endswith("pg_s3_backup.py")] == [f"{folder}pg_s3_backup.py"]


def test_an_editable_install_finds_them_as_well():
    assert Path(example_dags.__file__).resolve() == ROOT / "dags/__init__.py"
