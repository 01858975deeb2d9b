"""if_exists="replace": the settings of the live database, which others wrote, carry over and never run."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import back_up_once

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)


@pytest.fixture(scope="module")
def backup(pg16: Cluster, moto: S3Server) -> dict:
    pg16.create_database("settings")
    pg16.psql("create table t as select 1 as i", "settings")
    made = back_up_once(pg16, "settings", moto, f"s3://{moto.create_bucket('backup-of-settings')}")
    pg16.drop_database("settings")
    return made


@pytest.fixture
def live(pg16: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg16, name="live")


@pytest.fixture
def mallory(pg16: Cluster, live: str) -> Iterator[str]:
    """A role that may do nothing but log in."""
    pg16.psql("create role mallory login password 'm'")
    yield "mallory"
    with pg16.connect() as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(live)))
        for (name,) in connection.execute("select datname from pg_database where datname like 'live%'").fetchall():
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
        connection.execute("drop role mallory")


def settings_of(cluster: Cluster, database: str) -> dict[str, list[str]]:
    """Role ('-' for all) → its settings in a database."""
    with cluster.connect() as connection:
        return dict(
            connection.execute(
                "select setrole::regrole::text, setconfig from pg_db_role_setting s"
                " join pg_database d on d.oid = setdatabase where datname = %s",
                [database],
            ).fetchall()
        )


def store(cluster: Cluster, database: str, name: str, value: str, *, user: str | None = None) -> None:
    """Store a setting without the quotes that SET would add: for the database, or by a user for itself."""
    password = {"user": user, "password": user[0]} if user else {}
    with psycopg.connect(cluster.dsn(database, **password), autocommit=True) as connection:
        connection.execute("select set_config(%s, %s, false)", [name, value])
        whose = (
            sql.SQL("alter role {} in database {}").format(sql.Identifier(user), sql.Identifier(database))
            if user
            else sql.SQL("alter database {}").format(sql.Identifier(database))
        )
        connection.execute(sql.SQL("{} set {} from current").format(whose, sql.Identifier(name)))


def test_a_setting_that_looks_like_commands_is_not_run(
    pg16: Cluster, live: str, mallory: str, backup: dict, restore
) -> None:
    text = "x;alter/**/role/**/mallory/**/superuser"
    store(pg16, live, "search_path", text, user=mallory)
    assert settings_of(pg16, live) == {mallory: [f"search_path={text}"]}
    done = restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
    assert pg16.psql("select rolsuper from pg_roles where rolname = 'mallory'").strip() == "f"
    assert pg16.psql("table t", live).strip() == "1"
    assert settings_of(pg16, live) == {mallory: [f'search_path="{text}"']}
    assert done["warnings"] == []


SANE = [
    "''",
    "public",
    '"$user", public',
    '"odd, name", "with ""quotes""", "Upper", "sp ace", \'\', "semi;colon"',
    '"it\'s", "back\\slash", "ünï", "select"',
    "'', ''",
]


@pytest.mark.parametrize("value", SANE)
def test_a_search_path_carries_over_to_the_letter(
    pg16: Cluster, live: str, mallory: str, backup: dict, restore, value: str
) -> None:
    for whose in (f'database "{live}"', f'role mallory in database "{live}"'):
        pg16.psql(f"alter {whose} set search_path = {value}")
    pg16.psql(f"alter database \"{live}\" set my.own = 'a, \"b'';\\c'")
    before = settings_of(pg16, live)
    assert set(before) == {"-", mallory}
    done = restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
    assert settings_of(pg16, live) == before
    assert done["warnings"] == []


@pytest.mark.parametrize(
    ("stored", "restored"),
    [
        ("Public,pg_catalog", "public, pg_catalog"),
        (' a\t,  "B""c" ', 'a, "B""c"'),
        ("", '""'),
        ('a"b', '"a""b"'),
        ("ÜN", '"Ün"'),
    ],
)
def test_a_list_that_was_stored_in_other_words_keeps_its_meaning(
    pg16: Cluster, live: str, backup: dict, restore, stored: str, restored: str
) -> None:
    store(pg16, live, "search_path", stored)
    assert settings_of(pg16, live) == {"-": [f"search_path={stored}"]}
    # It means the same to the server.
    assert what_it_means(pg16, stored) == what_it_means(pg16, restored)
    restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
    assert settings_of(pg16, live) == {"-": [f"search_path={restored}"]}


def what_it_means(cluster: Cluster, path: str) -> list[str]:
    with cluster.connect("template1") as connection, connection.transaction(force_rollback=True):
        for name in ("a", "A", "B", 'B"c', 'a"b', "Ün", "ün"):
            connection.execute(sql.SQL("create schema {}").format(sql.Identifier(name)))
        connection.execute("select set_config('search_path', %s, true)", [path])
        return connection.execute("select current_schemas(false)::text[]").fetchone()[0]


@pytest.mark.parametrize("value", ["", "my lib", "a,,b"])
def test_a_list_that_no_command_can_say_is_left_out_and_named(
    pg16: Cluster, live: str, backup: dict, restore, value: str
) -> None:
    store(pg16, live, "session_preload_libraries", value)
    done = restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
    assert settings_of(pg16, live) == {}
    assert done["warnings"] == ["not set: session_preload_libraries, as no command can express its value"]
    # An empty list least of all: this is what it would become, and nobody could log in.
    pg16.psql(f"alter database \"{live}\" set session_preload_libraries = ''")
    with pytest.raises(psycopg.OperationalError, match="could not access"):
        pg16.connect(live)


def test_privileges_go_to_roles_of_any_name(pg16: Cluster, live: str, backup: dict, restore) -> None:
    names = ['x" to public; --', "Public", "select"]
    with pg16.connect() as connection:
        for name in names:
            role, database = sql.Identifier(name), sql.Identifier(live)
            connection.execute(sql.SQL("create role {}").format(role))
            connection.execute(sql.SQL("grant create on database {} to {}").format(database, role))
        acl = "select datacl::text from pg_database where datname = %s"
        before = connection.execute(acl, [live]).fetchone()
        try:
            restore(pg16, live, backup=backup["uri"], if_exists="replace", keep_previous=False)
            assert connection.execute(acl, [live]).fetchone() == before
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(live)))
            for name in names:
                connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
