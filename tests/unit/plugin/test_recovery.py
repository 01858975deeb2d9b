"""The commands on the page are those of the documents, with the names of a backup."""

import shlex

import pytest

from airflow_pg_s3.cli.parser import build_parser
from airflow_pg_s3.core.repository.backup_table import TableSize
from airflow_pg_s3.plugin.recovery import commands
from tests.support.stored_backups import ID, manifest_of

AMAZON = "https://bucket.s3.eu-central-1.amazonaws.com"
NAME = "my 'db'; $(reboot)"
URI = f"s3://bucket/prefix/my%20%27db%27%3B/{ID}.json"
TABLES = [TableSize("public", "it's", 1, 1, 1, ["a"])]


def settings_of(text):
    words = [word for line in text.split("\n# 3.")[0].splitlines() for word in shlex.split(line, comments=True)]
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_settings_hold_the_names_of_the_backup_whatever_they_are():
    found = commands(URI, manifest_of(NAME), endpoint_url=AMAZON, tables=[])
    settings = settings_of(found[-1].text)
    assert settings["FOLDER"] == "s3://bucket/prefix/my%20%27db%27%3B"
    assert (settings["BACKUP"], settings["AWS"]) == (ID, "aws")
    assert settings["NEW_DATABASE"] == f"{NAME}_recovered"


def test_a_new_database_has_a_name_of_its_own_even_if_names_are_cut():
    found = commands(URI, manifest_of("ü" * 31), endpoint_url=AMAZON, tables=[])
    assert settings_of(found[-1].text)["NEW_DATABASE"] == "ü" * 26 + "_recovered"


@pytest.mark.parametrize(
    ("facts", "endpoint_url", "expected"),
    [
        ({}, AMAZON, (None, [])),
        ({}, "https://s3.example.com", ("https://s3.example.com", [])),
        ({"encryption": {"method": "age", "recipients": ["age1"]}}, AMAZON, (None, ["/root/age.key"])),
    ],
)
def test_pg_s3_takes_the_commands(facts, endpoint_url, expected):
    *of_pg_s3, by_hand = commands(URI, manifest_of(NAME, **facts), endpoint_url=endpoint_url, tables=TABLES)
    assert len(of_pg_s3) == 3
    for command in of_pg_s3:
        program, *words = shlex.split(command.text.partition(" > ")[0])
        given = build_parser().parse_args(words)
        assert (program, given.backup) == ("pg-s3", URI)
        assert (given.endpoint_url, given.identity) == expected
    assert settings_of(by_hand.text)["AWS"] == (
        "aws" if expected[0] is None else f"aws --endpoint-url {expected[0]}"
    )
