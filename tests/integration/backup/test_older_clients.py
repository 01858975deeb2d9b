"""Servers from 15.20 on keep `pg_attver` among the options of columns; older client programs write it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster, installations
from tests.integration.conftest import only_on
from tests.support.sampling import sample

pytestmark = only_on("moto")
COLUMNS = """
create table t (i int primary key, "two
lines" text default 'SET (pg_attver=1);');
alter table t alter i set (n_distinct = 5);
create table p (i int) partition by range (i);
create table p1 partition of p for values from (0) to (9);
create materialized view "the view" as select i from t;
create foreign data wrapper w; create server s foreign data wrapper w;
create foreign table far (i int) server s;
create type pair as (a int, b int);
insert into t select generate_series(1, 9); insert into p select 1;
"""


@pytest.fixture(scope="module")
def pg15(cluster_of: Callable[[int], Cluster]) -> Cluster:
    cluster = cluster_of(15)
    if cluster.psql("select count(*) from pg_attribute where attoptions::text ~ 'pg_attver'").strip() == "0":
        pytest.skip("this PostgreSQL 15 is older than 15.20")
    return cluster


@pytest.fixture
def find_only(connections, monkeypatch, tmp_path: Path) -> Callable[..., list[str]]:
    """((the version that programs say, the major of those that do the work), …) → the folders of all there are."""

    def install(*versions: tuple[str, int]) -> list[str]:
        monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
        monkeypatch.setenv("PATH", "/nonexistent")
        folders = []
        for said, major in versions:
            folder = tmp_path / f"client {said}"
            folder.mkdir()
            for program in ("pg_dump", "pg_restore", "psql"):
                version = f"echo '{program} (PostgreSQL) {said}'"
                command = f"exec '{installations()[major] / program}' \"$@\""
                (folder / program).write_text(
                    f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; else {command}; fi\n'
                )
                (folder / program).chmod(0o755)
            folders.append(str(folder))
        connections.set_option("client_path", ":".join(folders))
        return folders

    return install


@pytest.mark.parametrize(
    "versions",
    [
        pytest.param([("16.14", 16)], id="a newer major that writes it"),
        pytest.param([("15.19", 16)], id="an older minor"),
        pytest.param([("15.19", 16), ("16.14", 16), ("18.4", 18)], id="all that there are"),
    ],
)
def test_a_backup_that_would_restore_nowhere_else_is_refused_before_anything_is_touched(
    pg15: Cluster, new_database, back_up, leftovers, find_only, spool_dir: Path, versions: list[tuple[str, int]]
):
    folders = find_only(*versions)
    server = pg15.psql("show server_version").split(" ")[0]
    database = new_database(pg15, COLUMNS)
    with pytest.raises(AirflowFailException) as caught:
        back_up(pg15, database)
    found = ", ".join(f"{said} in {folder}" for (said, _), folder in zip(versions, folders, strict=True))
    assert str(caught.value) == (
        f"no pg_dump here is good enough for PostgreSQL {server}, which stores its internal option pg_attver with "
        "columns: a backup that holds it restores nowhere else, and none here leaves it out; found on this "
        f"worker: {found}. Install the package postgresql-client-15 in version {server} or newer "
        "(https://www.postgresql.org/download/), or name its folder in the option [pg_s3] client_path, which is "
        f"now {':'.join(map(str, folders))} (Airflow reads a change of airflow.cfg when it is started again), or "
        "install pip's airflow-provider-pg-s3[clients]"
    )
    assert leftovers() == []
    assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("versions", "taken"),
    [
        pytest.param([("15.19", 16), ("15.99", 15)], "15.99", id="a minor that is no older than the server"),
        pytest.param([("16.14", 16), ("16.99", 15)], "16.99", id="a newer major that leaves it out"),
        pytest.param([("15.19", 15)], "15.19", id="one that leaves it out whatever its number"),
    ],
)
def test_the_program_that_leaves_it_out_is_found_by_asking(
    pg15: Cluster, new_database, back_up, manifest_of, find_only, versions: list[tuple[str, int]], taken: str
):
    find_only(*versions)
    made = back_up(pg15, new_database(pg15, COLUMNS))
    assert manifest_of(made).dump.pg_dump_version == taken


def test_a_role_that_may_read_no_table_of_its_own_is_told_as_well(
    pg15: Cluster, new_database, connections, back_up, find_only
):
    find_only(("16.14", 16))
    database = new_database(pg15, "create table hidden (i int)")
    pg15.psql("create role reads_nothing login password 'x'")
    try:
        source = connections.source
        connections.source = lambda cluster, name: source(cluster, name, options="-c role=reads_nothing")
        with pytest.raises(AirflowFailException, match="stores its internal option pg_attver"):
            back_up(pg15, database)
    finally:
        pg15.psql("drop role reads_nothing")


def test_after_an_upgrade_in_place_one_of_the_users_own_tables_is_asked_about(
    pg15: Cluster, new_database, back_up, manifest_of, find_only
):
    # Only what was made since the upgrade has the option then.
    database = new_database(pg15, encoding="LATIN1", locale="C", template="template0")
    with pg15.connect(database) as connection:
        connection.execute('create table "t\u00e4.*""b" (i int)')
        connection.execute(
            "update pg_attribute set attoptions = null where attrelid in"
            " (select oid from pg_class where relnamespace = 'information_schema'::regnamespace)"
        )
    find_only(("16.14", 16), ("17.99", 15))
    assert manifest_of(back_up(pg15, database)).dump.pg_dump_version == "17.99"


def test_a_server_that_keeps_nothing_is_dumped_with_any_newer_major(
    pg16: Cluster, new_database, back_up, manifest_of, find_only
):
    find_only(("16.1", 16), ("18.4", 18))
    assert manifest_of(back_up(pg16, new_database(pg16, COLUMNS))).dump.pg_dump_version == "16.1"


@pytest.mark.parametrize("major", sample([16, 18], 1, "compared by an older program"))
def test_a_database_restored_there_is_compared_by_an_older_program_without_it(
    pg15: Cluster, hard_database, new_database, back_up, connections, find_only, spool_dir: Path, major: int
):
    made = back_up(pg15, new_database(pg15, COLUMNS, template=hard_database(pg15)))
    find_only((f"{major}.4", major))
    connections.set("pg_scratch", pg15.airflow_connection("postgres"))
    verify = PgS3VerifyOperator(
        task_id="verify",
        backup=made["uri"],
        postgres_conn_id="pg_scratch",
        aws_conn_id="aws",
        spool_dir=str(spool_dir),
    )
    assert verify.execute(context={})["outcome"] == "verified"


def test_the_labs_comparison_leaves_it_out(pg15: Cluster, pg16: Cluster, new_database, s3):
    # Its pg_dump is that of the newer major.
    there, here = (new_database(cluster, COLUMNS) for cluster in (pg15, pg16))
    assert compare_databases(pg15.dsn(there), pg16.dsn(here)) == []
