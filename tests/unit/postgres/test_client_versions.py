"""The right pg_dump and pg_restore are found, or the error says what was found, where, and what to install."""

import os

import pytest

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_versions


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Only what a test puts somewhere is found."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())


@pytest.fixture
def install(fake_program, tmp_path):
    """Install versions, each in a folder of its own; the folders' names."""

    def make(*versions):
        folders = []
        for version in versions:
            folder = tmp_path / f"client {version}"
            folder.mkdir()
            fake_program(f"echo 'pg_dump (PostgreSQL) {version}'", folder=folder)
            folders.append(str(folder))
        return folders

    return make


@pytest.mark.parametrize(
    ("versions", "server", "chosen"),
    [
        (["18.1", "16.14", "15.3"], 160002, "16.14"),
        (["18.1", "17.2", "15.3"], 160002, "17.2"),
        (["15.3", "16.1"], 160014, "16.1"),
        (["16.13", "16.14", "16.15"], 160014, "16.14"),
        (["16.9", "16.10", "17.9"], 160010, "16.10"),
        (["18.1", "16.13"], 160014, "16.13"),
        (["19beta1", "18.1"], 180001, "18.1"),
        (["19beta1"], 180001, "19beta1"),
        (["19devel"], 190000, "19devel"),
        (["13.0"], 130000, "13.0"),
    ],
)
def test_a_dump_takes_the_servers_own_major_and_no_older_minor_else_the_next_newer_major(
    install, versions, server, chosen
):
    assert client_versions.for_dump(server, search=install(*versions))[0].version == chosen


@pytest.mark.parametrize(
    ("versions", "dumped_by", "target", "chosen"),
    [
        pytest.param(["18.1", "16.14"], "16.14", 160014, "16.14", id="the same everywhere"),
        pytest.param(["18.1", "16.14", "15.3"], "16.14", 160014, "16.14", id="15 cannot read 16's archives"),
        pytest.param(["18.1", "16.14"], "15.3", 150003, "16.14", id="newer than both"),
        pytest.param(["18.1", "16.14"], "16.14", 180001, "18.1", id="not older than the target"),
        pytest.param(["18.1", "17.1", "16.14"], "18.1", 160014, "17.1", id="17 reads 18's archives"),
        pytest.param(["18.1", "16.14"], "17.1", 160014, "18.1", id="16 cannot read 17's archives"),
        pytest.param(["14.1", "15.3"], "15.3", 140001, "14.1", id="14 reads 15's archives"),
        pytest.param(["18.1"], "19.1", 180001, None, id="an archive of the future"),
        pytest.param(["19.1"], "19.1", 180001, "19.1", id="a program of the future"),
        pytest.param(["18.1"], "18rc1", 180000, "18.1", id="an archive of a release candidate"),
    ],
)
def test_a_restore_takes_the_oldest_that_reads_the_archive_and_is_not_older_than_the_target(
    install, versions, dumped_by, target, chosen
):
    search = install(*versions)
    if chosen is None:
        with pytest.raises(InputError, match="Install the package postgresql-client-19 "):
            client_versions.for_restore(dumped_by=dumped_by, target_version=target, search=search)
    else:
        assert (
            client_versions.for_restore(dumped_by=dumped_by, target_version=target, search=search).version
            == chosen
        )


def test_without_a_fitting_pg_dump_the_error_lists_what_there_is_and_what_to_install(install):
    search = install("15.3", "16.14")
    with pytest.raises(InputError) as caught:
        client_versions.for_dump(180001, search=search)
    assert str(caught.value) == (
        "PostgreSQL 18 is to be dumped, which takes pg_dump 18 or newer; found on this worker: "
        f"15.3 in {search[0]}, 16.14 in {search[1]}. Install the package postgresql-client-18 "
        "(https://www.postgresql.org/download/), or name its folder in the option [pg_s3] client_path, or install "
        "pip's airflow-provider-pg-s3[clients]"
    )


def test_without_a_fitting_pg_restore_the_error_lists_what_there_is_and_what_to_install(install):
    search = install("16.14")
    with pytest.raises(InputError) as caught:
        client_versions.for_restore(dumped_by="17.2", target_version=180001, search=search)
    assert "an archive of pg_dump 17.2 is to be restored into PostgreSQL 18" in str(caught.value)
    assert f"takes pg_restore 18 or newer; found on this worker: 16.14 in {search[0]}." in str(caught.value)
    assert "Install the package postgresql-client-18 " in str(caught.value)


def test_without_any_program_the_error_says_so():
    with pytest.raises(InputError, match=r"found on this worker: none\. Install the package .*-16 "):
        client_versions.for_dump(160000)


def test_programs_are_found_in_the_given_folders_then_in_path_then_in_the_standard_places(
    install, monkeypatch, tmp_path
):
    search, on_path, _ = install("16.1", "16.2", "16.3")
    monkeypatch.setenv("PATH", os.pathsep.join(["", "/nonexistent", on_path]))
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", (str(tmp_path / "client 16.3*"),))
    assert [tools.version for tools in client_versions.installed([search])] == ["16.1", "16.2", "16.3"]
    assert client_versions.for_dump(160000, search=[search])[0].version == "16.1"
    assert client_versions.for_dump(160000)[0].version == "16.2"
    assert client_versions.for_dump(160000)[0].path("pg_restore") == f"{on_path}/pg_restore"


def test_of_one_major_the_pg_restore_is_taken_that_is_no_older_than_the_server(install):
    search = install("16.1", "16.3")
    for version, found in ((160001, "16.1"), (160002, "16.3"), (160009, "16.1"), (150020, "16.1")):
        assert (
            client_versions.for_restore(dumped_by="15.1", target_version=version, search=search).version == found
        )
    assert client_versions.for_archive((1, 15), target_version=160003, search=search).version == "16.3"


def test_a_folder_that_is_named_twice_is_found_once(install, monkeypatch):
    (folder,) = install("16.1")
    monkeypatch.setenv("PATH", os.pathsep.join([folder, folder]))
    assert len(client_versions.installed([folder])) == 1


def test_a_relative_folder_becomes_absolute_as_programs_run_elsewhere(install, monkeypatch, tmp_path):
    install("16.1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "client 16.1")
    assert client_versions.for_dump(160000)[0].path("pg_dump") == str(tmp_path / "client 16.1/pg_dump")


def test_debians_wrapper_is_passed_over_as_it_chooses_a_version_by_itself(fake_program, tmp_path):
    fake_program("echo 'pg_dump (PostgreSQL) 16.1'", programs=["pg_wrapper"], folder=tmp_path)
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("pg_dump", "pg_restore"):
        (folder / program).symlink_to(tmp_path / "pg_wrapper")
    assert client_versions.installed([str(folder)]) == []


def test_links_to_real_programs_are_taken(install, tmp_path):
    (real,) = install("16.1")
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("pg_dump", "pg_restore"):
        (folder / program).symlink_to(f"{real}/{program}")
    assert [tools.version for tools in client_versions.installed([str(folder)])] == ["16.1"]


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param("exit 1", id="fails"),
        pytest.param("echo 'pg_dump (PostgreSQL) 16.1'; exit 127", id="fails after all, as for want of a library"),
        pytest.param("kill -9 $$", id="is killed"),
        pytest.param("echo hello", id="says something else"),
        pytest.param("printf '\\377\\376\\000'", id="says no text"),
        pytest.param("true", id="says nothing"),
        pytest.param("echo 'pg_dump (PostgreSQL) 12.22'", id="is older than what we know"),
        pytest.param("echo 'pg_dump (EnterpriseDB) 16.1'", id="is of somebody else"),
    ],
)
def test_a_program_that_is_none_is_passed_over(fake_program, commands, install):
    broken = str(fake_program(commands).folder)
    (sound,) = install("16.1")
    assert [str(tools.folder) for tools in client_versions.installed([broken, sound])] == [sound]


def test_a_folder_with_one_of_the_programs_alone_is_passed_over(fake_program):
    tools = fake_program("echo 'pg_dump (PostgreSQL) 16.1'", programs=["pg_dump"])
    assert client_versions.installed([str(tools.folder)]) == []


def test_what_cannot_be_executed_is_passed_over(install, tmp_path):
    (folder,) = install("16.1")
    (tmp_path / "client 16.1/pg_restore").chmod(0o644)
    directories = tmp_path / "directories"
    for program in ("pg_dump", "pg_restore"):
        (directories / program).mkdir(parents=True)
    assert client_versions.installed([folder, str(directories)]) == []


def test_a_distributions_addition_to_the_version_is_left_out(fake_program):
    tools = fake_program("echo 'pg_dump (PostgreSQL) 16.14 (Debian 16.14-1.pgdg120+1)'")
    assert [found.version for found in client_versions.installed([str(tools.folder)])] == ["16.14"]


def test_programs_get_nothing_of_the_workers_secrets(fake_program, monkeypatch, tmp_path):
    tools = fake_program(f"export -p > '{tmp_path}/env'; echo 'pg_dump (PostgreSQL) 16.1'")
    monkeypatch.setenv("AIRFLOW_CONN_S3", "CANARY")
    monkeypatch.setenv("PGPASSWORD", "CANARY")
    assert client_versions.installed([str(tools.folder)])
    seen = (tmp_path / "env").read_text()
    assert "PATH=" in seen
    assert "CANARY" not in seen
