"""Messages of core name the options of a command, where they name arguments of operators."""

import re
from pathlib import Path

import pytest

from airflow_pg_s3 import core
from airflow_pg_s3.cli.parser import build_parser
from airflow_pg_s3.cli.wording import OF_AIRFLOW, in_words_of


@pytest.mark.parametrize(
    ("core", "ours"),
    [
        ('give if_exists="clean" to drop', "give --if-exists clean to drop"),
        ("with if_exists='replace' this", "with --if-exists replace this"),
        ("Give allow_partial=True if that is meant", "Give --allow-partial if that is meant"),
        ("single_transaction=False takes jobs=2", "--no-single-transaction takes --jobs 2"),
        ("leave out create_database=False", "leave out --no-create-database"),
        ("or leave them out: exclude_tables=['public.t']", "or leave them out: --exclude-table public.t"),
        ("give each by itself: tables=['a', 'b']", "give each by itself: --table a --table b"),
        (
            "tables=['public.a b', \"c, d's\", 'x[1]']",
            """--table 'public.a b' --table 'c, d'"'"'s' --table 'x[1]'""",
        ),
        ("tables: 'public.order' matches nothing", "--table: 'public.order' matches nothing"),
        ("the largest tables: public.t", "the largest tables: public.t"),
        ('restore with thaw="Standard"', "restore with --thaw Standard"),
        ("spool_dir has 2 GB free", "--spool-dir has 2 GB free"),
        ("name its folder in the option [pg_s3] client_path", "name its folder in --client-path"),
        ("the database 'spool_dir' has no jobs", "the database 'spool_dir' has no jobs"),
        (
            "as it was made without include_globals=True: create",
            "as it was made without --include-globals: create",
        ),
        ("single_transaction=True is not said", "single_transaction=True is not said"),
    ],
)
def test_an_argument_becomes_an_option(core, ours):
    command = build_parser().parse_args(["restore", "b", "p"]).command
    assert in_words_of(command, core) == ours


def test_what_is_exchanged_is_what_core_says():
    text = "".join(file.read_text() for file in Path(core.__path__[0]).rglob("*.py"))
    # Strings in adjacent lines are one.
    said = re.sub(r"""["']\s*\n\s*f?["']""", "", text).replace("\\'", "'")
    assert [words for words in OF_AIRFLOW if words not in said] == []
