"""Functions that name things without their schema: a restore has no search path, and says what to do."""

import subprocess
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_pg_s3.core.documents import document
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.dumps import dump
from testkit.postgres import Cluster
from tests.support.documents import blocks

pytestmark = [pytest.mark.usefixtures("s3"), pytest.mark.parametrize("s3", ["moto"], indirect=True)]

# PostgreSQL 17 and later refuse such a function in an index themselves.
CONTENT = """
create function lowered(t text) returns text immutable language sql as 'select lower(t)';
create function key_of(t text) returns text immutable language sql as 'select lowered(t)';
create function ok(t text) returns boolean language plpgsql as 'begin return lowered(t) = t; end';
"""
INDEX = "create table t (x text); insert into t values ('A'); create index t_key on t (key_of(x));"
CHECK = "create table checked (x text check (ok(x))); insert into checked values ('a'), ('b');"
SCRIPT = ["alter function key_of(text) set search_path = public", "alter function ok set search_path = public"]


def advice(function: str) -> str:
    return (
        f"(the function {function} names things without their schema, and a restore has no search path: ALTER "
        "FUNCTION … SET search_path = … in the source, and back up again; to restore this backup, do that in "
        f"pre_data_sql, see {document('hard-cases.md')})"
    )


@pytest.mark.parametrize(
    ("commands", "function"), [(INDEX, "key_of"), (CHECK, "public.ok(text)")], ids=["index", "check"]
)
def test_the_error_says_what_to_do(
    pg16: Cluster, new_database, new_name, back_up, restore, connections, spool_dir, commands: str, function: str
) -> None:
    backup = back_up(pg16, new_database(pg16, CONTENT + commands))
    for arguments in ({}, {"if_exists": "clean"}):
        with pytest.raises(PgS3Error) as error:
            restore(pg16, new_database(pg16), backup=backup["uri"], **arguments)
        assert advice(function) in str(error.value)
    connections.set("pg_scratch", pg16.airflow_connection("postgres"))
    verify = PgS3VerifyOperator(
        task_id="verify", backup=backup["uri"], postgres_conn_id="pg_scratch", aws_conn_id="aws",
        spool_dir=str(spool_dir),
    )  # fmt: skip
    with pytest.raises(AirflowException, match="could not verify") as could_not:
        verify.execute(context={})
    assert advice(function) in str(could_not.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"jobs": 1},
        {"if_exists": "replace"},
        {"if_exists": "clean"},
        {"if_exists": "clean", "single_transaction": False},
        {"managed_service": True},
    ],
    ids=["new", "replace", "clean", "clean without a transaction", "managed service"],
)
def test_a_script_between_definitions_and_rows(pg16: Cluster, new_database, back_up, restore, arguments) -> None:
    backup = back_up(pg16, new_database(pg16, CONTENT + INDEX + CHECK))
    target = new_database(pg16)
    done = restore(pg16, target, backup=backup["uri"], pre_data_sql=SCRIPT, **arguments)
    assert done["rows"] == 3
    found = pg16.psql("select count(*), to_regclass('t_key'), (select x from t) from checked", target)
    assert found.strip() == "2|t_key|A"


def test_the_same_by_hand(pg16: Cluster, new_database, tmp_path: Path) -> None:
    (commands,) = blocks("docs/hard-cases.md", "bash")
    archive = dump(pg16, new_database(pg16, CONTENT + INDEX), "custom", tmp_path)
    (tmp_path / "archive").write_bytes(archive)
    target = new_database(pg16)
    environment = pg16.client_env() | {"PATH": f"{pg16.pg_bin}:/usr/bin:/bin", "TARGET": target}
    subprocess.run(["bash", "-e", "-c", commands], env=environment, cwd=tmp_path, check=True)
    assert pg16.psql("select x, to_regclass('t_key') from t", target).strip() == "A|t_key"


def test_other_archives_take_no_script(pg16: Cluster, small, put, restore, new_name) -> None:
    with pytest.raises(AirflowFailException, match="pre_data_sql runs only with backups that"):
        restore(pg16, new_name(pg16), backup=put(small.archive("custom")), pre_data_sql=SCRIPT)
