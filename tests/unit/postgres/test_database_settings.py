"""Lists that PostgreSQL stores for a database are cut as PostgreSQL cuts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from airflow_pg_s3.core.postgres.database_settings import set_command, split_list


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("", []),
        (" \t\n", []),
        ("a", ["a"]),
        ('""', [""]),
        ('"", ""', ["", ""]),
        ('"$user", public', ["$user", "public"]),
        ('"a, b" ,"c""d"', ["a, b", 'c"d']),
        ('a"b', ['a"b']),
        ("Aa,Bb", ["aa", "bb"]),
        ('"Aa","Bb"', ["Aa", "Bb"]),
        ("x;drop/**/table/**/t", ["x;drop/**/table/**/t"]),
    ],
)
def test_a_list_is_cut_into_its_elements(text: str, elements: list[str]) -> None:
    assert split_list(text, fold=True) == elements


@pytest.mark.parametrize("text", [",", "a,", ",a", "a b", '"a', '"a""', '"a"b', "a,,b", '"a" "b"'])
def test_what_is_no_list_is_told(text: str) -> None:
    assert split_list(text, fold=True) is None


@given(st.lists(st.text(min_size=0), min_size=1))
def test_any_names_in_quotes_come_back(names: list[str]) -> None:
    stored = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    assert split_list(stored, fold=True) == names


@given(st.text())
def test_a_command_is_made_of_literals_whatever_is_stored(text: str) -> None:
    for name in ("search_path", "local_preload_libraries", "Temp_Tablespaces", "work_mem", 'odd".name'):
        command = set_command(sql.Identifier("d"), None, f"{name}={text}")
        if command is not None:
            *_, values = list(command)
            assert all(isinstance(part, sql.Literal) or part == sql.SQL(", ") for part in values)
