"""What a restore needs and the target has not is said at once, before anything is touched."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.postgres.archive.requirements import requirements_of
from airflow_pg_s3.core.postgres.archive.toc import read_toc
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from testkit.dumps import dump
from testkit.postgres import Cluster, installations
from testkit.reset_cluster import wipe
from tests.support.sampling import sample
from tests.support.stored_backups import sealed_json

pytestmark = [pytest.mark.usefixtures("s3"), pytest.mark.parametrize("s3", ["moto"], indirect=True)]

DEMANDING = """
set allow_in_place_tablespaces = on; set allow_system_table_mods = on;
create role "the owner"; create role reader; create role other;
create tablespace fast location '';
create extension demo;
create collation pg_catalog.odd (locale = 'C');
create table plain (i int); insert into plain values (1), (2);
create table owned (i int); alter table owned owner to "the owner";
create table shared (i int); grant select on shared to reader;
create table placed (i int) tablespace fast;
create table sorted (t text collate pg_catalog.odd);
create table versioned as select demo() as d;
"""
ALL = (
    "the target lacks what this restore needs: "
    "roles of owners and privileges: reader, the owner "
    "(create them, or give no_owner=True and no_privileges=True); "
    "extensions: demo 1.0 (install their packages on the server); "
    "tablespaces: fast (create them, or give "
)
FREE = {"no_owner": True, "no_privileges": True, "pg_restore_options": ["--no-tablespaces"]}


def offer_extension(cluster: Cluster, version: str) -> None:
    """Make the extension `demo` available, outside of the installation, which others use too."""
    folder = cluster.data_dir / "more" / "extension"
    folder.mkdir(parents=True)
    (folder / "demo.control").write_text(f"default_version = '{version}'\nrelocatable = true\n")
    (folder / f"demo--{version}.sql").write_text("create function demo() returns int language sql return 1;\n")
    cluster.psql(f"alter system set extension_control_path = '{folder.parent}:$system'")
    cluster.restart()


@pytest.fixture(scope="module")
def source() -> Iterator[Cluster]:
    with Cluster(major=18) as cluster:
        offer_extension(cluster, "1.0")
        cluster.create_database("demanding")
        cluster.psql(DEMANDING, "demanding")
        yield cluster


@pytest.fixture(scope="module")
def target_server() -> Iterator[Cluster]:
    with Cluster(major=18) as cluster:
        yield cluster


@pytest.fixture
def target(target_server: Cluster) -> Iterator[Cluster]:
    """A server that has nothing."""
    yield target_server
    wipe(target_server)


def everything(cluster: Cluster) -> list[str]:
    query = (
        "select 'role ' || rolname from pg_roles union select 'database ' || datname from pg_database order by 1"
    )
    return cluster.psql(query).splitlines()


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(AirflowFailException) as refused:
        act()
    return str(refused.value)


def test_all_that_is_missing_is_said_at_once(source: Cluster, target: Cluster, back_up, restore, s3, put) -> None:
    backup = back_up(source, "demanding")
    before = everything(target)
    for if_exists in ("fail", "clean", "replace"):
        said = refusal(lambda mode=if_exists: restore(target, "copy", backup=backup["uri"], if_exists=mode))
        assert said.startswith(ALL)
        assert "; collations: odd (install these locales on the server" in said
    # A live database is not touched either.
    target.create_database("live")
    target.psql("create table plain as select 77 as i", "live")
    for if_exists in ("clean", "replace"):
        said = refusal(lambda mode=if_exists: restore(target, "live", backup=backup["uri"], if_exists=mode))
        assert said.startswith(ALL)
    assert everything(target) == sorted([*before, "database live"])
    assert target.psql("select i from plain", "live").strip() == "77"
    # What is not needed is not missed.
    done = restore(target, "part", backup=backup["uri"], tables=["plain"], no_owner=True)
    assert (done["rows"], done["warnings"]) == (2, [])
    restore(target, "data", backup=backup["uri"], tables=["plain"], pg_restore_options=["-O", "-x"])
    assert refusal(lambda: restore(target, "other", backup=backup["uri"], tables=["shared"], no_owner=True)) == (
        "the target lacks what this restore needs: roles of privileges: reader (create them, or give "
        "no_privileges=True)"
    )


def test_a_locale_that_the_server_has_not_is_missing(
    source: Cluster, target: Cluster, back_up, restore, s3, new_database
) -> None:
    backup = back_up(
        source, new_database(source, "create table t (i int); create role local; alter table t owner to local")
    )
    bucket, _, key = backup["uri"].removeprefix("s3://").partition("/")
    # As of another operating system.
    manifest = json.loads(s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    manifest["server"] |= {"collate": "xx_XX.UTF-8", "ctype": "xx_XX.UTF-8"}
    s3.client().put_object(Bucket=bucket, Key=key, Body=sealed_json(manifest))
    said = refusal(lambda: restore(target, "copy", backup=backup["uri"]))
    assert "roles of owners: local" in said
    assert "the locale 'xx_XX.UTF-8' of the operating system (could not create locale" in said
    # It is needed only for a database that is still to be created.
    target.create_database("there")
    target.psql("create role local")
    restore(target, "there", backup=backup["uri"])


def test_another_version_of_an_extension_is_a_warning(source: Cluster, back_up, restore) -> None:
    with Cluster(major=18) as target:
        offer_extension(target, "2.0")
        # What is in the target is there, whoever brought it.
        target.psql("set allow_system_table_mods = on; create collation pg_catalog.odd (locale = 'C')")
        done = restore(target, "postgres", backup=back_up(source, "demanding")["uri"], **FREE)
        assert target.psql("select extversion from pg_extension where extname = 'demo'").strip() == "2.0"
    assert done["warnings"] == ["extension demo: the source had version 1.0, the target has 2.0"]


def test_who_may_not_give_objects_away_is_told_before(
    source: Cluster, target: Cluster, back_up, restore, connections, new_database
) -> None:
    database = new_database(source, 'create table t (i int); alter table t owner to "the owner"')
    target.psql("create role modest login createdb password 'p'; create role \"the owner\"")
    known = json.loads(target.airflow_connection("copy"))
    connections.set("pg_modest", json.dumps(known | {"login": "modest", "password": "p"}))
    backup = back_up(source, database)
    said = refusal(lambda: restore(target, "copy", backup=backup["uri"], postgres_conn_id="pg_modest"))
    assert (
        "membership: modest is no superuser and may not give objects to the owner "
        "(grant these roles to modest, or give no_owner=True)" in said
    )
    assert "database copy" not in everything(target)
    done = restore(target, "copy", backup=backup["uri"], postgres_conn_id="pg_modest", no_owner=True)
    assert done["warnings"] == []
    assert target.psql("select tableowner from pg_tables where tablename = 't'", "copy").strip() == "modest"


@pytest.mark.parametrize("form", ["custom", "tar", "directory"])
def test_archives_of_other_tools_are_looked_at_too(
    source: Cluster, target: Cluster, restore, put, new_database, tmp_path: Path, form: str
) -> None:
    database = new_database(
        source, 'create table t as select 1 as i; alter table t owner to "the owner"; grant select on t to reader'
    )
    uri = put(dump(source, database, form, tmp_path), f"archive.{form}")
    assert (
        "lacks what this restore needs: roles of owners and privileges: reader, the owner (create them"
        in refusal(lambda: restore(target, "copy", backup=uri))
    )
    assert "database copy" not in everything(target)
    done = restore(target, "copy", backup=uri, no_owner=True, no_privileges=True)
    assert done["warnings"] == []
    assert target.psql("select tableowner from pg_tables where tablename = 't'", "copy").strip() == "postgres"
    assert "this archive holds no globals" in refusal(
        lambda: restore(target, "b", backup=uri, restore_globals=True)
    )


@pytest.mark.parametrize("argument", ["no_owner", "no_privileges"])
def test_a_plain_dump_keeps_its_owners(source: Cluster, restore, put, tmp_path: Path, argument: str) -> None:
    uri = put(dump(source, "postgres", "plain", tmp_path))
    said = refusal(lambda: restore(source, "copy", backup=uri, allow_unsafe_psql=True, **{argument: True}))
    assert f"{argument}=True has no effect on a plain dump" in said


@pytest.mark.parametrize("major", sample([15, 16, 18], 1, "roles"))
def test_the_roles_of_the_hard_database_are_known_from_its_table_of_contents(
    cluster_of, hard_database, tmp_path: Path, major: int
) -> None:
    cluster = cluster_of(major)
    whole = tmp_path / "whole"
    cluster.run(
        "pg_dump",
        "--format=directory",
        "--compress=0",
        "--exclude-table-data=*",
        f"--file={whole}",
        dbname=hard_database(cluster),
    )
    folder = tmp_path / "archive"
    folder.mkdir()
    (whole / "toc.dat").rename(folder / "toc.dat")
    tools = ClientTools(major=major, version=str(major), folder=installations()[major])
    toc = read_toc(folder / "toc.dat")
    named = {"lab_owner", "lab_reader", 'lab "quoted" role', "lab's — élève", "-lab dash"}
    assert requirements_of(folder, toc, toc.entries, tools=tools).roles.keys() == {*named, "postgres"}
    # Named in a policy and a user mapping.
    arguments = ["--no-owner", "--no-privileges"]
    assert requirements_of(folder, toc, toc.entries, tools=tools, options=arguments).roles.keys() == {
        "lab_reader",
        "-lab dash",
    }
