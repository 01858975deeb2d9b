"""Extensions that are not like others: what pg_dump leaves to them, and what they refuse to restore."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_pg_s3.core.errors import CopyError
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.postgres import Cluster

pytestmark = [pytest.mark.usefixtures("s3"), pytest.mark.parametrize("s3", ["moto"], indirect=True)]

EXTENSIONS = {
    # As PostGIS's topology: rows are dumped, the sequence that numbers them is not.
    "numbered": """
        create table kept (id serial primary key, t text);
        select pg_extension_config_dump('kept', '');
        create table cached (id serial, t text);
        create sequence counter;
        create sequence dumped;
        select pg_extension_config_dump('dumped', '');
    """,
    # As pg_cron.
    "lonely": """
        do $$ begin if current_database() !~ '^home [0-9a-f]+$' then
            raise exception 'can only create extension in database home' using detail = 'It has jobs.';
        end if; end $$;
        create table job (i int);
        select pg_extension_config_dump('job', '');
    """,
    # As TimescaleDB.
    "strict": """
        create table setting (i int);
        create function is_restoring() returns boolean
            return current_setting('strict.restoring', true) is not distinct from 'on';
        alter table setting add check (i < 2 or strict.is_restoring());
        select pg_extension_config_dump('setting', '');
    """,
}
PRE_RESTORE = """
do $$ begin execute format('alter database %I set strict.restoring = on', current_database()); end $$;
set strict.restoring = on;
"""
REFUSED = (
    "the target does not take extensions as the backup has them: extension lonely in schema lonely: can only "
    "create extension in database home (It has jobs.); there is no table for the rows of lonely.job, which came "
    "with an extension (let pre_restore_sql create and set what they want, restore into the database that they "
    "want, or leave them out with managed_service=True, and their rows with exclude_tables)"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """PostgreSQL 18, which takes extensions from outside of its installation."""
    with Cluster(major=18) as cluster:
        folder = cluster.data_dir / "more" / "extension"
        folder.mkdir(parents=True)
        for name, script in EXTENSIONS.items():
            (folder / f"{name}.control").write_text(f"default_version = '1.0'\nschema = {name}\n")
            (folder / f"{name}--1.0.sql").write_text(script)
        cluster.psql(f"alter system set extension_control_path = '{folder.parent}:$system'")
        cluster.psql("select pg_reload_conf()")
        yield cluster


@pytest.fixture
def verify(connections, spool_dir: Path, server: Cluster) -> Callable[..., dict]:
    """(backup, **arguments of the operator) → what the verification task returns, on the same server."""

    def run(backup: dict, **arguments: object) -> dict:
        connections.set("pg_scratch", server.airflow_connection("postgres"))
        defaults = {"postgres_conn_id": "pg_scratch", "aws_conn_id": "aws", "spool_dir": str(spool_dir)}
        operator = PgS3VerifyOperator(task_id="verify", backup=backup["uri"], **defaults | arguments)
        return operator.execute(context={})

    return run


def test_a_verification_says_what_pg_dump_leaves_to_an_extension(
    server: Cluster, new_database, back_up, verify
) -> None:
    database = new_database(
        server,
        """
        create extension numbered; insert into numbered.kept (t) values ('a'), ('b');
        insert into numbered.cached (t) values ('c');
        select nextval('numbered.counter'), nextval('numbered.dumped');
        create table t (id serial); insert into t values (default);
        """,
    )
    done = verify(back_up(server, database))
    assert (done["outcome"], done["rows"]) == ("verified", 3)
    assert done["warnings"] == [
        "the extension numbered does not let pg_dump write the rows of numbered.cached and the last value of "
        "numbered.counter, numbered.kept_id_seq, so the backup does not hold them, and they were not compared: "
        "after a restore, set the latter with setval()"
    ]


def rows(cluster: Cluster, database: str, table: str) -> list[str]:
    return cluster.psql(f"select * from {table} order by 1", database).split()


@pytest.fixture
def home(server: Cluster, new_database) -> str:
    """A database with an extension that no other database can have."""
    return new_database(
        server,
        "create schema lonely; create extension lonely; insert into lonely.job values (1); create table t (i int);"
        "insert into t values (7)",
        name="home",
    )


@pytest.fixture
def lonely(server: Cluster, home: str, back_up) -> dict:
    """A backup of it."""
    return back_up(server, home)


@pytest.mark.parametrize(
    "arguments",
    [{"if_exists": "fail"}, {"if_exists": "replace"}, {"if_exists": "clean", "single_transaction": False}],
    ids=lambda arguments: arguments["if_exists"],
)
def test_an_extension_of_another_database_is_refused_before_anything_happens(
    server: Cluster, lonely: dict, restore, new_name, new_database, arguments
) -> None:
    is_new = arguments["if_exists"] == "fail"
    target = new_name(server) if is_new else new_database(server, "create table t as select 8 as i")
    before = server.psql("select datname from pg_database order by 1")
    with pytest.raises(AirflowFailException) as refused:
        restore(server, target, backup=lonely["uri"], **arguments)
    assert REFUSED in str(refused.value)
    assert server.psql("select datname from pg_database order by 1") == before
    if not is_new:
        assert rows(server, target, "t") == ["8"]


def test_an_empty_database_stays_empty(server: Cluster, lonely: dict, restore, new_database) -> None:
    target = new_database(server)
    with pytest.raises(AirflowFailException, match="can only create extension in database home"):
        restore(server, target, backup=lonely["uri"])
    assert server.psql("select count(*) from pg_namespace where nspname = 'lonely'", target).strip() == "0"


def test_an_extension_of_another_database_is_left_out(
    server: Cluster, lonely: dict, restore, new_database
) -> None:
    target = new_database(server, "create table t as select 8 as i")
    done = restore(
        server, target, backup=lonely["uri"], managed_service=True, exclude_tables=["lonely.*"],
        if_exists="replace", keep_previous=False, allow_partial=True,
    )  # fmt: skip
    assert rows(server, target, "t") == ["7"]
    assert done["warnings"] == [
        "left out: EXTENSION lonely: can only create extension in database home",
    ]


def test_a_backup_with_such_an_extension_could_not_be_verified(
    server: Cluster, home: str, lonely: dict, back_up, verify
) -> None:
    with pytest.raises(AirflowFailException, match="could not verify") as error:
        verify(lonely)
    assert REFUSED in str(error.value)
    without = back_up(server, home, pg_dump_options=["--exclude-extension=lonely"])
    assert verify(without)["outcome"] == "verified"


@pytest.fixture
def strict(server: Cluster, new_database, back_up) -> dict:
    """A backup with rows of an extension that takes them only while a setting says so."""
    database = new_database(
        server,
        "create schema strict; create extension strict; create table t (i int); insert into t values (7);"
        "set strict.restoring = on; insert into strict.setting values (2);",
    )
    return back_up(server, database)


def test_rows_that_need_a_setting(server: Cluster, strict: dict, restore, new_name, verify) -> None:
    with pytest.raises(CopyError) as refused:
        restore(server, new_name(server), backup=strict["uri"])
    assert str(refused.value).startswith(
        "the rows of strict.setting, a table of an extension, could not be loaded (23514): "
    )
    assert str(refused.value).endswith(
        " (if it wants a setting while they are loaded, give pre_restore_sql; or leave them out: "
        "exclude_tables=['strict.setting'])"
    )
    for if_exists in ("fail", "replace"):
        target = new_name(server)
        restore(server, target, backup=strict["uri"], if_exists=if_exists, pre_restore_sql=PRE_RESTORE)
        assert rows(server, target, "strict.setting") == ["2"]
    with pytest.raises(AirflowException, match=r"could not verify: .*, a table of an extension,"):
        verify(strict)
    assert verify(strict, pre_restore_sql=PRE_RESTORE)["outcome"] == "verified"


def test_rows_of_an_extension_are_left_out(server: Cluster, strict: dict, restore, new_name) -> None:
    target = new_name(server)
    done = restore(server, target, backup=strict["uri"], exclude_tables=["strict.set*"])
    assert (done["tables"], rows(server, target, "t"), rows(server, target, "strict.setting")) == (1, ["7"], [])


@pytest.mark.parametrize("single_transaction", [True, False])
def test_what_comes_before_a_clean_is_in_its_transaction(
    server: Cluster, strict: dict, restore, new_database, single_transaction: bool
) -> None:
    target = new_database(server, "create table t as select 8 as i; create view v as select * from t")
    arguments = {"backup": strict["uri"], "if_exists": "clean", "single_transaction": single_transaction}
    with pytest.raises(AirflowFailException, match=r"view public\.v depends on table public\.t"):
        restore(server, target, pre_restore_sql="create table before_it (i int)", **arguments)
    is_there = server.psql("select count(*) from pg_class where relname = 'before_it'", target).strip()
    assert is_there == ("0" if single_transaction else "1")
    restore(server, target, pre_restore_sql=[PRE_RESTORE, "drop view public.v"], **arguments)
    assert (rows(server, target, "t"), rows(server, target, "strict.setting")) == (["7"], ["2"])


def test_what_comes_before_may_name_the_roles_of_the_backup(
    server: Cluster, new_database, back_up, restore
) -> None:
    server.psql("create role keeper")
    database = new_database(server, "create schema strict; create extension strict")
    backup = back_up(server, database, include_globals=True)
    server.psql("drop role keeper")
    target = new_database(server)
    restore(
        server, target, backup=backup["uri"], restore_globals=True,
        pre_restore_sql="create schema kept authorization keeper",
    )  # fmt: skip
    owner = "select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'kept'"
    assert server.psql(owner, target).strip() == "keeper"


def test_an_extension_whose_schema_was_left_out(
    pg18_with_vector: Cluster, new_database, new_name, back_up, restore, connections, spool_dir
) -> None:
    server = pg18_with_vector
    database = new_database(
        server,
        "create schema ext; create extension vector schema ext; create table t (v ext.vector(2));"
        "insert into t values ('[1,2]')",
    )
    backup = back_up(server, database, pg_dump_options=["--exclude-schema=ext"])
    target = new_database(server)
    refusal = 'extension vector in schema ext: schema "ext" does not exist (let pre_restore_sql create '
    with pytest.raises(AirflowFailException) as refused:
        restore(server, target, backup=backup["uri"])
    assert refusal in str(refused.value)
    restore(server, target, backup=backup["uri"], pre_restore_sql="create schema ext")
    assert rows(server, target, "t") == ["[1,2]"]
    connections.set("pg_scratch", server.airflow_connection("postgres"))
    arguments = {"postgres_conn_id": "pg_scratch", "aws_conn_id": "aws", "spool_dir": str(spool_dir)}
    with pytest.raises(AirflowFailException, match="could not verify") as error:
        PgS3VerifyOperator(task_id="verify", backup=backup["uri"], **arguments).execute(context={})
    assert refusal in str(error.value)
    done = PgS3VerifyOperator(
        task_id="verify", backup=backup["uri"], pre_restore_sql="create schema ext", **arguments
    ).execute(context={})
    assert done["outcome"] == "verified"
    assert done["warnings"] == [
        "the schema ext, which holds an extension, is not in the backup, but was created before"
    ]
