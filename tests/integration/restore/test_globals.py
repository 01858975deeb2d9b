"""include_globals and restore_globals: roles, memberships, settings and tablespaces travel with a backup."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.restore.globals import applied
from testkit.postgres import Cluster, installations
from testkit.reset_cluster import wipe
from testkit.unprivileged_user import make_directory, server_user
from tests.conftest import postgresql_is_missing

pytestmark = [pytest.mark.usefixtures("s3"), pytest.mark.parametrize("s3", ["moto"], indirect=True)]

PAIRS = [pytest.param(16, id="16 to 18"), pytest.param(15, id="15 to 15")]
only_16_to_18 = pytest.mark.parametrize("source", PAIRS[:1], indirect=True, scope="module")
ROLES = r'''
create role postgres_like superuser login password 'secret one';
create role "the ""owner""" login createdb createrole connection limit 7 valid until '2040-01-01'
    password 'secret two';
create role "it's a; role -- ☃" nologin noinherit;
create role replicator replication bypassrls login;
create role reader;
comment on role reader is E'says \\ "it''s"; \nand more';
alter role reader set search_path to "odd, name", public;
alter role reader set work_mem to '7MB';
grant reader to "the ""owner""" with admin option;
grant "it's a; role -- ☃" to reader;
create role kept connection limit 3;
comment on role kept is 'of the source';
alter role kept set work_mem to '9MB';
grant reader to kept;
'''
APPLICATION = r'''
create schema app authorization "the ""owner""";
create table app.numbers as select i from generate_series(1, 100) i;
alter table app.numbers owner to "the ""owner""";
grant select on app.numbers to "it's a; role -- ☃";
'''
CREATED = ("postgres_like", 'the "owner"', "it's a; role -- ☃", "replicator", "reader")


def roles(cluster: Cluster, *names: str) -> dict[str, tuple]:
    """Attributes, settings and comments of roles; of all but the predefined ones, if none is named."""
    with cluster.connect() as connection:
        rows = connection.execute(
            "select rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,"
            " rolbypassrls, rolconnlimit, rolvaliduntil, rolconfig, shobj_description(oid, 'pg_authid')"
            " from pg_roles where rolname !~ '^pg_'"
        ).fetchall()
    return {row[0]: row[1:] for row in rows if not names or row[0] in names}


def members(cluster: Cluster) -> set[tuple]:
    with cluster.connect() as connection:
        return set(
            connection.execute(
                "select roleid::regrole::text, member::regrole::text, admin_option from pg_auth_members"
                " where roleid::regrole::text !~ '^pg_'"
            ).fetchall()
        )


def tablespaces(cluster: Cluster) -> set[tuple]:
    with cluster.connect() as connection:
        return set(
            connection.execute(
                "select spcname, pg_get_userbyid(spcowner), spcoptions::text,"
                " shobj_description(oid, 'pg_tablespace'),"
                " (select string_agg(a::text, ' ' order by a::text) from unnest(spcacl) a)"
                " from pg_tablespace"
            ).fetchall()
        )


@pytest.fixture(scope="module", params=PAIRS)
def source(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    major = request.param
    if major not in installations():
        postgresql_is_missing(f"PostgreSQL {major} is not installed")
    with Cluster(major=major) as cluster:
        cluster.psql(ROLES)
        cluster.create_database("app")
        cluster.psql(APPLICATION, "app")
        yield cluster


@pytest.fixture(scope="module")
def target_server(source: Cluster) -> Iterator[Cluster]:
    with Cluster(major={16: 18, 15: 15}[source.major]) as cluster:
        yield cluster


@pytest.fixture
def target(target_server: Cluster) -> Iterator[Cluster]:
    """A server that has nothing but the role `kept`, which is another one than the source's."""
    target_server.psql("create role kept createdb; alter role kept set work_mem to '5MB'")
    yield target_server
    wipe(target_server)


@pytest.fixture
def as_user(connections) -> Callable[..., str]:
    """(cluster, database, user, password) → the id of a connection of that user."""

    def define(cluster: Cluster, database: str, user: str, password: str) -> str:
        known = json.loads(cluster.airflow_connection(database))
        connections.set("pg_user", json.dumps(known | {"login": user, "password": password}))
        return "pg_user"

    return define


def stored_globals(s3, bucket: str, manifest: Manifest, folder: Path) -> str:
    """What a backup's globals say, unpacked by tar and zstd."""
    assert manifest.dump.has_globals
    # With toc.dat in the last pack.
    key = manifest.packs[-1].key
    keys = [entry["Key"] for entry in s3.client().list_objects_v2(Bucket=bucket)["Contents"]]
    (found,) = [candidate for candidate in keys if candidate.endswith(f"/{key}")]
    pack = folder / "pack.tar.zst"
    pack.write_bytes(s3.client().get_object(Bucket=bucket, Key=found)["Body"].read())
    subprocess.run(["tar", "--zstd", "-xf", pack, "-C", folder], check=True)
    return (folder / "globals.sql").read_text(encoding="utf-8")


def test_roles_come_back_and_existing_ones_are_kept(source: Cluster, target: Cluster, back_up, restore) -> None:
    kept = roles(target, "kept")
    backup = back_up(source, "app", include_globals=True)
    done = restore(target, "app", backup=backup["uri"], restore_globals=True)
    assert done["warnings"] == []
    assert roles(target, *CREATED) == roles(source, *CREATED)
    assert roles(target, "kept") == kept
    assert roles(target).keys() == roles(source).keys()
    assert members(target) == members(source)
    assert target.psql("select count(*) from app.numbers", "app").strip() == "100"
    assert target.psql("select count(*) from pg_authid where rolpassword is not null").strip() == "1"  # postgres
    # All of it is there now: a second time changes nothing.
    before = (roles(target), members(target))
    restore(target, "again", backup=backup["uri"], restore_globals=True)
    assert (roles(target), members(target)) == before


@only_16_to_18
def test_roles_are_restored_by_hand(
    source: Cluster, target: Cluster, back_up, manifest_of, s3, bucket: str, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    stored_globals(s3, bucket, manifest_of(back_up(source, "app", include_globals=True)), archive)
    document = (Path(__file__).parents[3] / "docs/recovery.md").read_text()
    (command,) = re.findall(r"^if \[ -e archive/globals.sql \].*$", document, re.MULTILINE)
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, env=target.client_env() | path_to(target), check=True)
    assert roles(target, *CREATED) == roles(source, *CREATED)
    assert members(target) == members(source)


def path_to(cluster: Cluster) -> dict[str, str]:
    return {"PATH": f"{cluster.pg_bin}:{os.environ['PATH']}"}


def test_no_password_is_stored(
    source: Cluster, back_up, manifest_of, new_database, s3, bucket: str, tmp_path: Path
) -> None:
    # Its name could be taken for connection parameters.
    database = new_database(source, name="host=nowhere user='x' \"odd\"")
    script = stored_globals(s3, bucket, manifest_of(back_up(source, database, include_globals=True)), tmp_path)
    assert 'CREATE ROLE "the ""owner""";' in script
    assert "PASSWORD" not in script.upper()
    assert "SCRAM" not in script.upper()
    assert "secret" not in script


@pytest.mark.parametrize("attributes", ["createrole createdb", ""], ids=["as on RDS", "plain"])
def test_globals_are_stored_without_superuser(
    source: Cluster, back_up, as_user, manifest_of, s3, bucket: str, tmp_path: Path, attributes: str
) -> None:
    source.psql(f"create role modest login password 'p' {attributes}; grant pg_read_all_data to modest")
    try:
        user = as_user(source, "app", "modest", "p")
        backup = back_up(source, "app", postgres_conn_id=user, include_globals=True)
        script = stored_globals(s3, bucket, manifest_of(backup), tmp_path)
    finally:
        source.psql("drop role modest")
    assert "CREATE ROLE reader;" in script
    assert "ALTER ROLE reader SET work_mem TO '7MB';" in script


def test_a_modest_user_restores_what_it_may_and_is_told_the_rest(
    source: Cluster, target: Cluster, back_up, restore, as_user
) -> None:
    target.psql("create role modest login createrole createdb password 'p'")
    backup = back_up(source, "app", include_globals=True)
    user = as_user(target, "app", "modest", "p")
    done = restore(target, "app", backup=backup["uri"], postgres_conn_id=user, restore_globals=True)
    warnings = "\n".join(done["warnings"])
    assert "the role postgres_like was created without SUPERUSER: " in warnings
    assert "the role replicator was created without REPLICATION: " in warnings
    assert "the role replicator was created without BYPASSRLS: " in warnings
    assert roles(target, "reader") == roles(source, "reader")
    assert roles(target, 'the "owner"') == roles(source, 'the "owner"')
    wanted = {pair for pair in members(source) if "postgres" not in pair}
    assert wanted <= members(target)
    owner = "select tableowner from pg_tables where tablename = 'numbers'"
    assert target.psql(owner, "app").strip() == 'the "owner"'


@only_16_to_18
def test_a_user_that_may_not_create_roles_is_refused(
    source: Cluster, target: Cluster, back_up, restore, as_user
) -> None:
    target.psql("create role modest login createdb password 'p'")
    backup = back_up(source, "app", include_globals=True)
    user = as_user(target, "app", "modest", "p")
    with pytest.raises(AirflowFailException, match="modest may not create roles"):
        restore(target, "app", backup=backup["uri"], postgres_conn_id=user, restore_globals=True)
    assert target.psql("select count(*) from pg_database where datname = 'app'").strip() == "0"


@pytest.fixture
def with_tablespace(source: Cluster) -> Iterator[Path]:
    """The source has a table in the tablespace `fast`, in this folder; a server of another major may too."""
    place = make_directory(source.data_dir.parent / "fast", user=server_user())
    place.parent.chmod(0o711)
    source.psql(f"create tablespace fast owner reader location '{place}'")
    source.psql("alter tablespace fast set (random_page_cost = 1); comment on tablespace fast is 'it''s fast'")
    source.psql("grant create on tablespace fast to replicator")
    source.psql("create table app.quick tablespace fast as select 1 as i", "app")
    yield place
    source.psql("drop table app.quick", "app")
    source.psql("drop tablespace fast")
    shutil.rmtree(place)


@only_16_to_18
def test_tablespaces_come_back_or_nothing_does(
    source: Cluster, target: Cluster, back_up, restore, with_tablespace: Path
) -> None:
    backup = back_up(source, "app", include_globals=True)
    before = (roles(target), members(target), tablespaces(target))
    with pytest.raises(AirflowFailException, match="lacks what this restore needs: roles of owners: who else"):
        restore(target, "app", backup=backup["uri"], restore_globals=True, pg_restore_options=["--role=who else"])
    assert (roles(target), members(target), tablespaces(target)) == before
    restore(target, "app", backup=backup["uri"], restore_globals=True)
    assert tablespaces(target) == tablespaces(source)
    assert target.psql("select tablespace from pg_tables where tablename = 'quick'", "app").strip() == "fast"


@only_16_to_18
def test_a_tablespace_that_cannot_be_created_is_missing_only_if_it_is_needed(
    source: Cluster, target: Cluster, back_up, restore, with_tablespace: Path
) -> None:
    backup = back_up(source, "app", include_globals=True)
    before = (roles(target), members(target), tablespaces(target))
    away = with_tablespace.with_name("away")
    with_tablespace.rename(away)
    try:
        with pytest.raises(
            AirflowFailException, match=r"lacks what this restore needs: tablespaces: fast \(create"
        ):
            restore(target, "app", backup=backup["uri"], restore_globals=True)
        assert (roles(target), members(target), tablespaces(target)) == before
        done = restore(
            target,
            "app",
            backup=backup["uri"],
            restore_globals=True,
            pg_restore_options=["--no-tablespaces"],
            if_exists="replace",
        )
    finally:
        away.rename(with_tablespace)
    assert [warning.split(": ")[0] for warning in done["warnings"]] == ["the tablespace fast was not created"]
    assert target.psql("select count(*) from app.quick", "app").strip() == "1"


@only_16_to_18
def test_what_the_globals_would_bring_is_not_missing_but_is_if_left_out(
    source: Cluster, target: Cluster, back_up, restore
) -> None:
    backup = back_up(source, "app", include_globals=True)
    with pytest.raises(AirflowFailException) as refused:
        restore(target, "app", backup=backup["uri"])
    assert 'roles of owners and privileges: it\'s a; role -- ☃, the "owner" (create them, or ' in str(
        refused.value
    )
    assert (
        "or give restore_globals=True, as the backup holds them, or give no_owner=True and no_privileges=True)"
    ) in str(refused.value)


@only_16_to_18
def test_a_backup_without_globals_cannot_restore_them(source: Cluster, target: Cluster, back_up, restore) -> None:
    backup = back_up(source, "app")
    with pytest.raises(
        AirflowFailException, match="holds no globals, as it was made without include_globals=True"
    ):
        restore(target, "app", backup=backup["uri"], restore_globals=True)


@only_16_to_18
def test_without_pg_dumpall_nothing_is_stored(
    source: Cluster, back_up, connections, leftovers, tmp_path: Path
) -> None:
    for program in ("pg_dump", "pg_restore"):
        (tmp_path / program).symlink_to(source.pg_bin / program)
    connections.set_option("client_path", str(tmp_path))
    with pytest.raises(AirflowFailException, match="include_globals=True takes pg_dumpall, which is not in"):
        back_up(source, "app", include_globals=True)
    assert leftovers() == []
    back_up(source, "app")


@only_16_to_18
def test_a_failing_pg_dumpall_fails_the_backup(
    source: Cluster, back_up, connections, leftovers, tmp_path: Path
) -> None:
    for program in ("pg_dump", "pg_restore"):
        (tmp_path / program).symlink_to(source.pg_bin / program)
    # It has written everything, as it seems, and then says that it failed.
    (tmp_path / "pg_dumpall").write_text(
        f'#!/bin/sh\n"{source.pg_bin / "pg_dumpall"}" "$@"\necho "pg_dumpall: error: no more disk" >&2\nexit 1\n'
    )
    (tmp_path / "pg_dumpall").chmod(0o755)
    connections.set_option("client_path", str(tmp_path))
    with pytest.raises(Exception, match="pg_dumpall exited with status 1:\npg_dumpall: error: no more disk"):
        back_up(source, "app", include_globals=True)
    assert leftovers() == []


def test_any_pg_restore_ignores_the_member(source: Cluster, target: Cluster, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    source.run("pg_dump", "--format=directory", f"--file={archive}", dbname="app")
    (archive / "globals.sql").write_text("SELECT 1/0;\n")
    target.psql('create role "the ""owner"""; create role "it\'s a; role -- ☃"')
    target.create_database("by hand")
    target.run("pg_restore", "--jobs=2", "--exit-on-error", "--dbname=by hand", archive)
    assert target.psql("select count(*) from app.numbers", "by hand").strip() == "100"


@only_16_to_18
def test_a_killed_restore_of_globals_leaves_no_roles(target: Cluster) -> None:
    """The transaction is the server's: what is not committed is gone with the connection."""
    before = roles(target)
    connection = target.connect()

    def apply_and_die() -> None:
        with applied(connection, "CREATE ROLE one;\nALTER ROLE one WITH LOGIN;\n") as warnings:
            assert warnings == []
            assert "one" not in roles(target)
            target.psql(f"select pg_terminate_backend({connection.info.backend_pid})")
            connection.execute("select 1")

    with pytest.raises(psycopg.OperationalError):
        apply_and_die()
    assert roles(target) == before
