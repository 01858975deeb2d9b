"""Whatever an Airflow connection holds, we and the client programs go where `PostgresHook` goes, as whom it goes.

libpq itself is the judge, and nothing is connected to.
"""

import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import psycopg
import pytest
from airflow.providers.postgres.hooks.postgres import PostgresHook
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.hooks.connections import database_of, postgres_parameters

# Said by us where the connection does not, or whatever it says; see core/postgres/connection.py.
OURS = {"application_name", "connect_timeout", "keepalives_idle"}
WHATEVER = {"client_encoding", "replication", "fallback_application_name"}

words = st.sampled_from(["a", "b", "it's", "ü b", "back\\slash", "x=y", ":", ""])
hosts = st.sampled_from(["a.example", "192.0.2.1", "/run/postgresql", "a,b", "a,,b", "", "::1"])
ports = st.sampled_from(["5433", "5433,5434", "5433,,5434", ""])
extras = st.fixed_dictionaries(
    {},
    optional={
        "host": hosts | st.none(),
        "hostaddr": st.sampled_from(["192.0.2.7", "192.0.2.7,192.0.2.8", ""]),
        "port": ports | st.integers(1, 65535) | st.none(),
        "user": words | st.none(),
        "password": words | st.none() | st.integers(),
        "dbname": words | st.none(),
        "sslmode": st.sampled_from(["require", "verify-full", ""]),
        "sslrootcert": st.sampled_from(["/root.crt", "system", ""]),
        "target_session_attrs": st.sampled_from(["any", "read-write", ""]),
        "load_balance_hosts": st.sampled_from(["random", "disable"]),
        "require_auth": st.sampled_from(["scram-sha-256", ""]),
        "options": words,
        "passfile": words,
        "application_name": words | st.booleans(),
        "keepalives": st.integers(0, 1),
        "connect_timeout": st.integers(0, 9) | st.just(""),
        "sslpassword": st.sampled_from(["secret", ""]),
        # Not libpq's, but the hook's and psycopg's.
        "cursor": st.just("dictcursor"),
        "aws_conn_id": st.just("elsewhere"),
        "iam": st.booleans(),
        "autocommit": st.booleans(),
        "prepare_threshold": st.integers(0, 9) | st.none(),
    },
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "host": hosts,
        "port": st.integers(1, 65535),
        "login": words,
        "password": words,
        "schema": words,
    },
)


def seen(conninfo: str, variables: dict[str, str]) -> dict[str, str]:
    """libpq's keywords and values, from its defaults, the environment and a service file, and from a conninfo."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("PG")]:
            environment.delenv(name)
        for name, value in variables.items():
            if name.startswith("PG"):
                environment.setenv(name, value)
        defaults = psycopg.pq.Conninfo.get_defaults()
    told = {option.keyword.decode(): option.val.decode() for option in defaults if option.val is not None}
    return {**told, **conninfo_to_dict(conninfo)}


def of_the_hook() -> dict[str, str]:
    with mock.patch("psycopg.connection.Connection.connect") as connect:
        PostgresHook("pg").get_conn()
    own = {"autocommit", "prepare_threshold", "row_factory"}
    return seen(make_conninfo(**{k: v for k, v in connect.call_args.kwargs.items() if k not in own}), {})


def of_our_sessions() -> dict[str, str]:
    with (
        mock.patch("psycopg.connect", side_effect=psycopg.OperationalError("as far as this")) as connect,
        pytest.raises(psycopg.OperationalError, match="as far as this"),
    ):
        postgres_parameters("pg", None).connect()
    return seen(connect.call_args.args[0], {})


def of_a_client_program() -> dict[str, str]:
    params = postgres_parameters("pg", None)
    with tempfile.TemporaryDirectory() as folder:
        variables = params.written_environment(Path(folder))
        found = seen(params.dbname_argument(), variables)
        found.pop("service", None)
        file = Path(folder) / "pgpass"
        if file.exists():
            assert found.pop("passfile") == str(file)
            line = file.read_text().removeprefix("*:*:*:*:").removesuffix("\n")
            found["password"] = line.replace("\\:", ":").replace("\\\\", "\\")
    return found


def compared(found: dict[str, str], extra: dict[str, object]) -> dict[str, str]:
    said = {k for k, v in extra.items() if v is not None}
    compared = {k: v for k, v in found.items() if k not in WHATEVER and (k not in OURS or k in said)}
    if not compared.get("dbname"):
        compared["dbname"] = compared["user"]  # libpq's rule
    if compared.get("sslrootcert") == "system" and "sslmode" not in said:
        del compared["sslmode"]  # which comes with it
    if compared.get("password"):
        compared.pop("passfile", None)  # not looked at
    # An empty one is none.
    return {k: v for k, v in compared.items() if v or k not in ("password", "sslpassword")}


@given(fields=fields, extra=extras)
@example(fields={"host": "a", "login": "bob"}, extra={"port": "5433,5434"})
@example(fields={"login": "bob", "schema": "shop"}, extra={"dbname": None})
@example(fields={"login": "bob", "password": "p"}, extra={"iam": True, "password": "x"})
def test_we_go_where_the_hook_goes(fields: dict[str, object], extra: dict[str, object]) -> None:
    with (
        pytest.MonkeyPatch.context() as environment,
        mock.patch.object(PostgresHook, "get_iam_token", return_value=("iam", "token", 5439)),
    ):
        environment.setenv("AIRFLOW_CONN_PG", json.dumps({"conn_type": "postgres", **fields, "extra": extra}))
        hook = compared(of_the_hook(), extra)
        user = extra.get("user", "iam" if extra.get("iam") else fields.get("login"))
        if not user and not extra.get("dbname", fields.get("schema")):
            # libpq would take the name of the worker's user.
            with pytest.raises(InputError, match="names no database"):
                postgres_parameters("pg", None)
        else:
            assert compared(of_our_sessions(), extra) == hook
            assert compared(of_a_client_program(), extra) == hook


@pytest.mark.parametrize(
    ("connection", "database"),
    [
        ({"schema": "shop"}, "shop"),
        ({"schema": "shop", "extra": {"dbname": "other"}}, "other"),
        ({"extra": {"dbname": "other"}}, "other"),
    ],
)
def test_the_dags_name_the_database_that_the_hook_connects_to(
    connection: dict[str, object], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PG", json.dumps({"conn_type": "postgres", **connection}))
    assert database_of("pg") == postgres_parameters("pg", None).database == of_the_hook()["dbname"] == database
    # Whoever names one means it.
    assert postgres_parameters("pg", "named").database == "named"
