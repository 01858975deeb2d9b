"""A database is found as psql finds it: arguments, then a service, then the environment, then libpq's defaults."""

import logging
import os
import pwd

import pytest

from airflow_pg_s3.cli.libpq import postgres_parameters
from airflow_pg_s3.core.errors import InputError

LOG = logging.getLogger("libpq")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".pg_service.conf").write_text("[orders]\nhost=db\nport=5433\nuser=app\ndbname=orders\n")
    return tmp_path


def keywords_of(given):
    params, _ = postgres_parameters(given, LOG)
    return dict(params.keywords)


@pytest.mark.parametrize(
    ("given", "environment", "keywords"),
    [
        ("postgresql://app@db:5433/my%20db?sslmode=verify-full", {}, {
            "user": "app", "host": "db", "port": "5433", "dbname": "my db", "sslmode": "verify-full",
        }),
        ("host=db user=app dbname=orders", {"PGHOST": "other", "PGPORT": "6"}, {
            "host": "db", "port": "6", "user": "app", "dbname": "orders",
        }),
        ("orders", {"PGHOST": "db", "PGUSER": "app", "PGPASSWORD": "p", "PGSSLMODE": "require"}, {
            "host": "db", "user": "app", "dbname": "orders", "password": "p", "sslmode": "require",
        }),
        ("service=orders", {"PGPORT": "6"}, {"host": "db", "port": "5433", "user": "app", "dbname": "orders"}),
        ("service=orders host=standby", {}, {
            "host": "standby", "port": "5433", "user": "app", "dbname": "orders",
        }),
        ("", {"PGSERVICE": "orders"}, {"host": "db", "port": "5433", "user": "app", "dbname": ""}),
        ("postgresql:///orders", {"PGUSER": "app", "PGPASSFILE": "/x/pass"}, {
            "user": "app", "dbname": "orders", "passfile": "/x/pass",
        }),
        ("postgresql://app:own@/orders", {"PGPASSFILE": "/x/pass", "PGPASSWORD": "p"}, {
            "user": "app", "dbname": "orders", "password": "own",
        }),
    ],
)  # fmt: skip
def test_what_the_arguments_leave_open_comes_from_where_libpq_looks(monkeypatch, given, environment, keywords):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert keywords_of(given) == keywords


def test_without_anything_it_is_the_database_of_the_users_name(monkeypatch):
    monkeypatch.setenv("PGUSER", "somebody")
    params, is_named = postgres_parameters("postgresql://", LOG)
    assert (params.database, is_named) == ("somebody", False)
    monkeypatch.delenv("PGUSER")
    assert postgres_parameters("postgresql://", LOG)[0].keywords == {"user": pwd.getpwuid(os.geteuid()).pw_name}


@pytest.mark.parametrize(
    ("given", "is_named"), [("orders", True), ("postgresql://h/orders", True), ("service=orders", False)]
)
def test_only_what_the_arguments_say_names_a_database(given, is_named):
    params, was = postgres_parameters(given, LOG)
    assert (params.database, was) == ("orders", is_named)


def test_a_service_file_may_be_named(monkeypatch, home):
    (home / "others.conf").write_text("[hr]\nhost=other\n")
    monkeypatch.setenv("PGSERVICEFILE", str(home / "others.conf"))
    assert keywords_of("service=hr")["host"] == "other"


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_a_service_that_there_is_not_is_refused(monkeypatch, way):
    if way == "environment":
        monkeypatch.setenv("PGSERVICE", "nowhere")
    with pytest.raises(InputError, match='definition of service "nowhere" not found: correct its name'):
        postgres_parameters("service=nowhere" if way == "argument" else "orders", LOG)


def test_what_libpq_does_by_itself_is_left_to_it():
    """Older client programs know fewer keywords than psycopg's libpq, and would be refused for them."""
    assert set(keywords_of("postgresql://u@h/d")) == {"user", "host", "dbname"}
