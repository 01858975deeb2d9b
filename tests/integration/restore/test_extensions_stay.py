"""if_exists="clean": extensions that the target has stay, and their tables get the backup's rows, once."""

import json
import shutil
from collections.abc import Iterator

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from testkit.dumps import dump
from testkit.postgres import Cluster

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

# One of them in a schema that is in the archive, too.
CONTENT = """
create schema ext; create extension hstore schema ext; create extension citext;
create table items (id int primary key, name citext, attributes ext.hstore);
insert into items values (1, 'A', 'a=>1');
"""
OTHERS = "create table others (h ext.hstore, c citext); insert into others values ('b=>2', 'B');"
FORMS = [{}, {"single_transaction": False}, {"managed_service": True}, {"foreign": True}]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_an_extension_that_another_table_uses_stays(
    pg15: Cluster, new_database, back_up, put, restore, tmp_path, options: dict
) -> None:
    target = new_database(pg15, CONTENT)
    if options.pop("foreign", False):
        uri = put(dump(pg15, target, "custom", tmp_path))
    else:
        uri = back_up(pg15, target)["uri"]
    pg15.psql(OTHERS + "delete from items; comment on extension citext is 'the target''s'", target)
    restore(pg15, target, backup=uri, if_exists="clean", **options)
    assert pg15.psql("select * from others union all select attributes, name from items", target) == (
        '"b"=>"2"|B\n"a"=>"1"|A\n'
    )
    assert pg15.psql("select obj_description(oid) from pg_extension where extname = 'citext'", target) == (
        "the target's\n"
    )


@pytest.fixture
def settings(pg18: Cluster) -> Iterator[None]:
    """The extension `settings`, which has tables whose rows are dumped, as far as they are the user's."""
    folder = pg18.data_dir.parent / "of settings"  # where the server's user can read
    extension = folder / "extension"
    extension.mkdir(parents=True)
    (extension / "settings.control").write_text("default_version = '1'\nrelocatable = true\n")
    (extension / "settings--1.sql").write_text(
        "create table kind (id int primary key, own bool default true);\n"
        "create table setting (kind int references kind, value text, own bool default true);\n"
        "insert into kind values (1, false); insert into setting values (1, 'built in', false);\n"
        "select pg_extension_config_dump('kind', 'where own');\n"
        "select pg_extension_config_dump('setting', 'where own');\n"
    )
    pg18.psql(f"alter role all set extension_control_path = '$system:{folder}'")
    yield
    pg18.psql("alter role all reset extension_control_path")
    shutil.rmtree(folder)


WITH_SETTINGS = """
create extension settings; insert into kind values (2); insert into setting values (2, 'kept');
create table items (id int primary key); insert into items values (1);
"""


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_rows_of_an_extensions_tables_are_those_of_the_backup(
    pg18: Cluster, settings: None, new_database, back_up, put, restore, tmp_path, options: dict
) -> None:
    target = new_database(pg18, WITH_SETTINGS)
    if options.pop("foreign", False):
        uri = put(dump(pg18, target, "custom", tmp_path))
    else:
        uri = back_up(pg18, target)["uri"]
    pg18.psql("insert into kind values (3); insert into setting values (3, 'newer'), (2, 'newer')", target)
    restore(pg18, target, backup=uri, if_exists="clean", **options)
    rows = pg18.psql("select kind, value from setting; select id from kind order by id; table items", target)
    assert rows == "1|built in\n2|kept\n1\n2\n1\n"


@pytest.mark.parametrize("options", [{}, {"single_transaction": False}], ids=str)
def test_an_extension_that_cannot_be_created_costs_no_row(
    pg18: Cluster, settings: None, new_database, back_up, restore, connections, options: dict
) -> None:
    backup = back_up(pg18, new_database(pg18, WITH_SETTINGS))
    pg18.psql("create role extension_lacker login password 'few rights'")
    target = new_database(pg18, owner="extension_lacker")
    live = "set role extension_lacker; create table items (id int primary key); insert into items values (77)"
    pg18.psql(live, target)
    there = json.loads(pg18.airflow_connection(target))
    connections.set("lacker", json.dumps(there | {"login": "extension_lacker", "password": "few rights"}))
    try:
        with pytest.raises(AirflowFailException, match=r"no table for the rows of public\.kind, public\.setting"):
            restore(
                pg18,
                target,
                backup=backup["uri"],
                if_exists="clean",
                managed_service=True,
                postgres_conn_id="lacker",
                **options,
            )
        assert pg18.psql("select id from items", target) == "77\n"
    finally:
        pg18.drop_database(target)
        pg18.psql("drop role extension_lacker")
