"""What a trial server lacks is "could not verify", with what is missing; what is wrong with rows is "failed"."""

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_pg_s3.core.postgres.errors import copy_error
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.repository.verification_record import Verification, read_evidence
from airflow_pg_s3.core.verify import restore_test, user_checks
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import only_on

pytestmark = only_on("moto")
TABLE = "create table t (i int primary key); insert into t select generate_series(1, 9)"


@pytest.fixture
def verification(connections, spool_dir: Path, s3: S3Server, bucket: str) -> Callable[..., Verification]:
    """(backup, on=a cluster, **arguments) → what is recorded of its verification, which does not pass."""

    def run(made: dict, on: Cluster, **arguments: object) -> Verification:
        connections.set("pg_scratch", on.airflow_connection("postgres"))
        operator = PgS3VerifyOperator(
            task_id="verify", backup=made["uri"], postgres_conn_id="pg_scratch", aws_conn_id="aws",
            spool_dir=str(spool_dir), **arguments,
        )  # fmt: skip
        with pytest.raises((AirflowException, AirflowFailException)):
            operator.execute(context={})
        evidence = read_evidence(s3.client(), bucket, read_manifest(s3.client(), made["uri"]))
        return evidence.verifications[0]

    return run


@pytest.fixture
def before_the_restore(monkeypatch) -> Callable[[Callable[[psycopg.Connection], None]], None]:
    """(function of a connection to the scratch database) → is called when it is there, and empty."""

    def patch(do: Callable[[psycopg.Connection], None]) -> None:
        real = restore_test.restore_from

        def restore_from(source, context):
            with context.request.target.connect() as connection:
                do(connection)
            return real(source, context)

        monkeypatch.setattr(restore_test, "restore_from", restore_from)

    return patch


def assert_could_not(found: Verification, message: str) -> None:
    assert (found.outcome, found.differences) == ("could not verify", [])
    assert re.search(message, found.reason)


def test_a_server_that_turns_read_only(pg16: Cluster, new_database, back_up, verification, before_the_restore):
    made = back_up(pg16, new_database(pg16, TABLE))

    def turn(connection: psycopg.Connection) -> None:
        name = connection.info.dbname
        connection.execute(f'alter database "{name}" set default_transaction_read_only = on')

    before_the_restore(turn)
    assert_could_not(verification(made, pg16), "cannot execute CREATE TABLE in a read-only transaction")


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        pytest.param(
            "create table t (x text compression lz4)",
            "compression method lz4 not supported.*built with lz4",
            id="a server without lz4",
        ),
        pytest.param(
            "create table t (x xml); insert into t values ('<a/>')",
            "unsupported XML feature.*built with libxml",
            id="a server without libxml",
        ),
        pytest.param(
            "create text search dictionary d (template = simple, stopwords = english);"
            "update pg_ts_dict set dictinitoption = 'stopwords = ''ours''' where dictname = 'd'",
            'could not open stop-word file ".*/ours.stop"',
            id="a server without a file",
        ),
        pytest.param(
            "create function f() returns int language internal immutable as 'int4pl';"
            "update pg_proc set prosrc = 'newer', probin = '$libdir/newer', prolang ="
            " (select oid from pg_language where lanname = 'c') where proname = 'f'",
            'could not access file "\\$libdir/newer"',
            id="a server without a library",
        ),
        pytest.param(
            "create function f() returns int language sql set work_mem = '1MB' as 'select 1';"
            "update pg_proc set proconfig = '{newer_setting=on}' where proname = 'f'",
            'unrecognized configuration parameter "newer_setting"',
            id="a server without a setting",
        ),
    ],
)
def test_what_a_server_was_built_or_is_equipped_without(
    pg15: Cluster, pg16_with_vector: Cluster, new_database, back_up, verification, commands: str, message: str
):
    made = back_up(pg15, new_database(pg15, commands))
    # The wheel's, which is built without lz4 and libxml.
    assert_could_not(verification(made, pg16_with_vector), message)


def test_a_missing_relation_is_the_backups_if_the_server_is_like_the_source(
    pg16: Cluster, pg18: Cluster, new_database, back_up, verification
):
    tables = "create table parent (i int primary key); create table child (i int) inherits (parent)"
    database = new_database(pg16, tables)
    made = back_up(pg16, database, pg_dump_options=["--table=child"])
    found = verification(made, pg16)
    assert (found.outcome, [d.kind for d in found.differences]) == ("failed", ["restore"])
    assert 'relation "public.parent" does not exist' in found.differences[0].detail
    assert_could_not(verification(made, pg18), 'relation "public.parent" does not exist')


@pytest.mark.parametrize(
    ("command", "row", "outcome", "said"),
    [
        (
            "copy t from stdin",
            b"no number\n",
            "failed",
            "(22P02): invalid input syntax for type integer: (not shown)",
        ),
        ("copy t from stdin", b"1\t2\n", "failed", "(22P04): extra data after last expected column"),
        ("copy u from stdin", b"1\n", "could not verify", '(42P01): relation "u" does not exist'),
        (
            "set transaction_read_only = on; copy t from stdin",
            b"1\n",
            "could not verify",
            "(25006): cannot execute",
        ),
        (
            "create unique index on t (i); copy t from stdin",
            b"1\n1\n",
            "could not verify",
            "(23505): duplicate key",
        ),
    ],
)
def test_rows_that_a_session_of_ours_loads_are_judged_by_their_sqlstate(
    pg16: Cluster, new_database, back_up, verification, before_the_restore, command: str, row: bytes, outcome: str,
    said: str,
):  # fmt: skip
    made = back_up(pg16, new_database(pg16, TABLE))
    *first, copy = command.split("; ")

    def load(connection: psycopg.Connection) -> None:
        try:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute("create table public.t (i int); set search_path = public")
                for statement in first:
                    cursor.execute(statement)
                with cursor.copy(copy) as stream:
                    stream.write(row)
        except psycopg.Error as error:
            raise copy_error("public.t", error) from None

    before_the_restore(load)
    found = verification(made, pg16)
    assert found.outcome == outcome
    (told,) = [found.reason] if outcome != "failed" else [d.detail for d in found.differences]
    assert f"the rows of public.t could not be loaded {said}" in told
    assert "no number" not in told
    assert [(d.kind, d.name) for d in found.differences] == [("restore", "public.t")] * (outcome == "failed")


def test_a_check_that_the_server_does_not_come_to_the_end_of_says_nothing(
    pg16: Cluster, new_database, back_up, verification, monkeypatch
):
    monkeypatch.setattr(user_checks, "TIMEOUT_SECONDS", 1)
    made = back_up(pg16, new_database(pg16, TABLE))
    found = verification(made, pg16, checks=["select pg_sleep(3600) is null"])
    assert_could_not(found, r"the check select pg_sleep\(3600\) is null could not be run: .*statement timeout")
