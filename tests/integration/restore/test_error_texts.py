"""What pg_restore and psql say of errors: no text in it hides an error, and no row of it is passed on."""

from collections.abc import Callable

import pytest

from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.postgres import client_versions
from testkit.dumps import dump
from testkit.postgres import Cluster

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

# Of a function, as pg_restore quotes it if it cannot be created.
HOSTILE = """
create table t as select i from generate_series(1, 100) i;
create function f() returns void language plpgsql as $$
begin
    /*
{pretended}
    */
end $$;
"""
SETTING = 'could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"'
PRETENDED = {
    "the command": "Command was: SET transaction_timeout = 0;",
    "error and command": f"{SETTING}\nCommand was: SET transaction_timeout = 0;",
    "a key": "pg_restore: error: could not execute query: ERROR:  cannot drop inherited constraint "
    '"a" of relation "b"\n'
    "Command was: ALTER TABLE IF EXISTS ONLY b DROP CONSTRAINT IF EXISTS a;",
}
REFUSE_FUNCTIONS = """
create function refuse() returns event_trigger language plpgsql
    as $$ begin raise exception 'no functions today'; end $$;
create event trigger refuse on ddl_command_end when tag in ('CREATE FUNCTION') execute function refuse();
"""


@pytest.mark.parametrize("pretended", PRETENDED.values(), ids=PRETENDED)
def test_an_error_fails_the_restore_whatever_the_failed_command_pretends(
    pg16: Cluster, pg18: Cluster, connections, back_up, restore, new_database, monkeypatch, pretended: str
) -> None:
    source = new_database(pg16, HOSTILE.format(pretended=pretended))
    target = new_database(pg16, REFUSE_FUNCTIONS)
    # A client that is newer than the server, whose one error is tolerated; as are those of clean.
    connections.set_option("client_path", str(pg18.pg_bin))
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    backup = back_up(pg16, source)
    with pytest.raises(ClientProgramError, match=r"(?s)no functions today.*Command was: CREATE FUNCTION"):
        restore(pg16, target, backup=backup["uri"], if_exists="clean", single_transaction=False)
    pg16.psql("drop event trigger refuse", target)
    restore(pg16, target, backup=backup["uri"], if_exists="clean", single_transaction=False)
    assert pg16.psql("select count(*) from t", target) == "100\n"


SECRETS = (
    "create table t (i int, a text); insert into t select i, E'SECRET\\nSECRET' from generate_series(1, 3) i;"
)


def assert_no_row_is_told(error: ClientProgramError) -> None:
    # The log gets the same lines: tests/unit/postgres/test_redaction.py.
    assert "COPY t, line 1, column a: (not shown)" in str(error)
    assert "SECRET" not in str(error)


def test_no_row_is_told_where_pg_restore_cannot_load_it(pg16: Cluster, back_up, restore, new_database) -> None:
    target = new_database(pg16, "create table t (i int, a int)")
    backup = back_up(pg16, new_database(pg16, SECRETS))
    with pytest.raises(ClientProgramError, match="invalid input syntax for type integer") as raised:
        restore(pg16, target, backup=backup["uri"], data_only=True, single_transaction=False)
    assert_no_row_is_told(raised.value)


def test_no_row_is_told_where_psql_cannot_load_it(
    pg16: Cluster,
    restore,
    new_database,
    new_name,
    put: Callable[..., str],
    tmp_path,
) -> None:
    plain = dump(pg16, new_database(pg16, SECRETS), "plain", tmp_path)
    changed = plain.replace(b"    a text\n", b"    a integer\n")
    assert changed != plain
    with pytest.raises(ClientProgramError, match="invalid input syntax for type integer") as raised:
        restore(pg16, new_name(pg16), backup=put(changed), allow_unsafe_psql=True)
    assert_no_row_is_told(raised.value)
