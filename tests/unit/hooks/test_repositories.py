"""A name stands for a repository and its connection, wherever a repository can be given."""

import json
import logging
from collections.abc import Callable
from datetime import timedelta

import pytest

from airflow_pg_s3.airflow_cli.command import PROGRAM, WORDS, AirflowOptions
from airflow_pg_s3.cli.parser import build_parser
from airflow_pg_s3.cli.wording import in_words_of
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.get_provider_info import get_provider_info
from airflow_pg_s3.hooks.connections import client_path
from airflow_pg_s3.hooks.repositories import (
    NamedRepository,
    find_repository,
    named_repositories,
    open_repository,
)

OPTION = "AIRFLOW__PG_S3__REPOSITORIES"
PRODUCTION = {"name": "production", "uri": "s3://bucket/prod/", "aws_conn_id": "account"}
TESTS = {"name": "tests", "uri": "s3://bucket/tests"}


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """(text of the option) → sets it."""
    return lambda text: monkeypatch.setenv(OPTION, text)


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS connections whose access key is their id."""
    for conn_id in ("account", "given", "aws_default"):
        extra = {"region_name": "us-east-1"}
        connection = {"conn_type": "aws", "login": conn_id, "password": "secret", "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))


def test_all_named_repositories_are_returned_in_their_order(configure):
    configure(json.dumps([PRODUCTION, TESTS, {"name": "own", "uri": "s3://b", "aws_conn_id": None}]))
    assert named_repositories() == [
        NamedRepository(name="production", uri="s3://bucket/prod/", aws_conn_id="account"),
        NamedRepository(name="tests", uri="s3://bucket/tests", aws_conn_id="aws_default"),
        NamedRepository(name="own", uri="s3://b", aws_conn_id=None),
    ]
    assert find_repository("tests").uri == "s3://bucket/tests"


@pytest.mark.parametrize(("text", "hours"), [('"26h"', 26), ('"2d"', 48), ("null", None)])
def test_a_repository_can_have_a_rule_for_the_age_of_its_backups(configure, text, hours):
    configure(f'[{{"name": "a", "uri": "s3://b", "max_age": {text}}}]')
    assert find_repository("a").max_age == (hours and timedelta(hours=hours))


@pytest.mark.parametrize("text", ["", " \n", "[]"])
def test_none_need_be_named(configure, text):
    configure(text)
    assert named_repositories() == []


def test_the_example_in_the_provider_info_is_valid(configure):
    configure(get_provider_info()["config"]["pg_s3"]["options"]["repositories"]["example"])
    assert [(r.name, r.aws_conn_id) for r in named_repositories()] == [("production", "backup_account")]


@pytest.mark.parametrize(
    ("repository", "aws_conn_id", "expected"),
    [
        ("production", "aws_default", ("s3://bucket/prod/orders/", "account")),
        ("production", "given", ("s3://bucket/prod/orders/", "given")),
        ("tests", "aws_default", ("s3://bucket/tests/orders/", "aws_default")),
        ("s3://bucket/prod", "aws_default", ("s3://bucket/prod/orders/", "aws_default")),
    ],
)
def test_a_name_stands_for_uri_and_connection(configure, accounts, repository, aws_conn_id, expected):
    configure(json.dumps([PRODUCTION, TESTS]))
    opened, _ = open_repository(repository, aws_conn_id)
    access_key = opened.client._get_credentials().access_key
    assert (opened.uri(opened.base("orders")), access_key) == expected


@pytest.mark.parametrize("unknown", ["prodction", "", "s3:/bucket/prod", None])
def test_an_unknown_name_is_answered_with_those_that_there_are(configure, unknown):
    configure(json.dumps([PRODUCTION, TESTS]))
    with pytest.raises(InputError, match=r"s3://bucket/prefix"):
        open_repository(unknown, None)
    with pytest.raises(InputError, match=r"\[pg_s3\] repositories \(production, tests\)"):
        find_repository(unknown)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("production", "is not JSON: Expecting value: line 1 column 1"),
        ('{"production": "s3://b"}', "must be a list of objects .*: Input should be a valid list"),
        ('[{"name": "a"}]', "item 1, 'uri': Field required"),
        ('[{"name": "a", "uri": "s3://b"}, {"name": "b", "uri": "gs://b"}]', "item 2, 'uri': .*s3://"),
        ('[{"name": "a/b", "uri": "s3://b"}]', "item 1, 'name': "),
        ('[{"name": 1, "uri": "s3://b"}]', "item 1, 'name': Input should be a valid string"),
        ('[{"name": "a", "uri": "s3://b", "conn_id": "c"}]', "item 1, 'conn_id': Unexpected"),
        ('[{"name": "a", "uri": "s3://b"}, {"name": "a", "uri": "s3://c"}]', "the name 'a' to two"),
        ('[{"name": "a", "uri": "s3://b", "max_age": "a day"}]', "item 1, 'max_age': .*such as 90min, 26h or 2d"),
        ('[{"name": "a", "uri": "s3://b", "max_age": 26}]', "item 1, 'max_age': .*such as 90min, 26h or 2d"),
    ],
)
def test_a_faulty_option_is_one_sentence(configure, text, problem):
    configure(text)
    with pytest.raises(InputError, match=rf"^the option \[pg_s3\] repositories .*{problem}") as raised:
        named_repositories()
    assert "\n" not in str(raised.value)


def test_keys_of_the_option_become_no_options_of_a_command(configure):
    configure('[{"name": "a", "uri": "s3://b", "max_age": "a day"}]')
    with pytest.raises(InputError) as raised:
        named_repositories()
    message = str(raised.value)
    command = build_parser(PROGRAM, AirflowOptions()).parse_args(["list", "a"]).command
    assert in_words_of(command, message, WORDS) == message
    assert "'aws_conn_id' and 'max_age': item 1, 'max_age': " in message


def test_a_connection_of_another_type_is_no_aws_connection(configure, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_DB", "postgresql://app@db/orders")
    with pytest.raises(InputError, match="connection 'orders_db' is of type 'postgres', not aws"):
        open_repository("s3://bucket/prod", "orders_db")


def test_folders_of_the_client_path_that_are_not_on_this_machine_are_warned_of(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("AIRFLOW__PG_S3__CLIENT_PATH", f"{tmp_path}:/no/such/folder")
    assert client_path(logging.getLogger()) == [str(tmp_path), "/no/such/folder"]
    assert [record.getMessage() for record in caplog.records] == [
        "this machine lacks /no/such/folder, named in the option [pg_s3] client_path"
    ]
