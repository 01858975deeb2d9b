"""The schema public, which every database has, is neither dropped nor created; backups of it alone restore."""

from collections.abc import Iterator

import pytest

from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.database_equality import compare_databases
from testkit.dumps import dump
from testkit.postgres import Cluster
from tests.support.sampling import sample

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

CONTENT = """
create table items (id serial primary key, name text); insert into items (name) values ('kept');
create function next_id() returns int language sql as 'select max(id) + 1 from public.items';
"""
# Other than in a new database.
OWN = """
alter schema public owner to public_owner; comment on schema public is 'ours';
revoke all on schema public from public_owner; grant usage on schema public to public_owner, public_user;
"""
ALONE = ["--schema=public"]


@pytest.fixture(scope="module", autouse=True)
def roles(pg16: Cluster) -> Iterator[None]:
    pg16.psql("create role public_owner; create role public_user")
    yield
    pg16.psql("drop role public_owner; drop role public_user")


@pytest.fixture(params=sample(["as it comes", "own"], 1, "public schema"))
def source(pg16: Cluster, new_database, request: pytest.FixtureRequest) -> str:
    return new_database(pg16, CONTENT + (OWN if request.param == "own" else ""))


def public_of(cluster: Cluster, database: str) -> str:
    return cluster.psql(
        "select oid, pg_get_userbyid(nspowner), nspacl, obj_description(oid, 'pg_namespace') from pg_namespace"
        " where nspname = 'public'",
        database,
    )


@pytest.mark.parametrize("options", [{}, {"managed_service": True}, {"jobs": 1}], ids=str)
def test_a_backup_of_it_alone_is_restored_into_a_new_database(
    pg16: Cluster, source: str, new_name, back_up, restore, options: dict
) -> None:
    target = new_name(pg16)
    restore(pg16, target, backup=back_up(pg16, source, pg_dump_options=ALONE)["uri"], **options)
    assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []


def test_it_replaces_a_database_and_is_verified_and_its_tables_can_be_selected(
    pg16: Cluster, source: str, new_name, new_database, back_up, restore
) -> None:
    backup = back_up(pg16, source, pg_dump_options=ALONE)
    target, empty, live = new_name(pg16), new_database(pg16), new_database(pg16, "create table old ()")
    restore(pg16, target, backup=backup["uri"], tables=["public.*"])
    assert pg16.psql("select name from items", target) == "kept\n"
    restore(pg16, empty, backup=backup["uri"])
    restore(pg16, live, backup=backup["uri"], if_exists="replace", allow_partial=True, keep_previous=False)
    for copy in (empty, live):
        assert compare_databases(pg16.dsn(source), pg16.dsn(copy)) == []
    verify = {"backup": backup["uri"], "aws_conn_id": "aws", "task_id": "verify"}
    assert PgS3VerifyOperator(**verify, postgres_conn_id="pg_source").execute({})["outcome"] == "verified"


@pytest.mark.parametrize("form", ["custom", "tar", "plain", "directory"])
def test_another_tools_archive_of_it_alone_is_restored_into_a_new_database(
    pg16: Cluster, source: str, new_name, put, restore, tmp_path, form: str
) -> None:
    target = new_name(pg16)
    restore(pg16, target, backup=put(dump(pg16, source, form, tmp_path, *ALONE)))
    assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []


@pytest.mark.parametrize(
    "options", [{}, {"single_transaction": False}, {"managed_service": True}, {"foreign": True}], ids=str
)
def test_clean_keeps_it_with_what_else_it_holds(
    pg16: Cluster, source: str, new_database, back_up, put, restore, tmp_path, options: dict
) -> None:
    target = new_database(
        pg16,
        "create table items (id int, old int); create table others (i int); insert into others values (1);"
        "grant create on schema public to public_user; comment on schema public is 'the target''s'",
    )
    before = public_of(pg16, target)
    if options.pop("foreign", False):
        uri = put(dump(pg16, source, "custom", tmp_path, *ALONE))
    else:
        uri = back_up(pg16, source, pg_dump_options=ALONE)["uri"]
    restore(pg16, target, backup=uri, if_exists="clean", **options)
    assert public_of(pg16, target) == before
    assert pg16.psql("select name from items; select i from others", target) == "kept\n1\n"


def test_a_database_without_it_gets_it(pg16: Cluster, source: str, new_database, back_up, restore) -> None:
    target = new_database(pg16, "drop schema public")
    restore(pg16, target, backup=back_up(pg16, source, pg_dump_options=ALONE)["uri"])
    assert pg16.psql("select name from public.items", target) == "kept\n"


def test_a_backup_of_it_alone_is_verified_where_pg_dump_says_less_of_it(cluster_of, new_database, back_up) -> None:
    pg14 = cluster_of(14)
    backup = back_up(pg14, new_database(pg14, CONTENT), pg_dump_options=ALONE)
    verify = {"backup": backup["uri"], "aws_conn_id": "aws", "task_id": "verify"}
    assert PgS3VerifyOperator(**verify, postgres_conn_id="pg_source").execute({})["outcome"] == "verified"
