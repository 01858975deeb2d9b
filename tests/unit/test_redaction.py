"""What PostgreSQL quotes of rows in its messages is hidden; where the row is, stays."""

import sys

import pytest

from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.process import running
from airflow_pg_s3.core.redaction import RowRedactor


def redact(text: str) -> list[str]:
    redactor = RowRedactor()
    return [line for line in map(redactor.line, text.split("\n")) if line is not None]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('CONTEXT:  COPY t, line 3, column note: "SECRET"', "CONTEXT:  COPY t, line 3, column note: (not shown)"),
        ('CONTEXT:  COPY t, line 3: "1\tSECRET"', "CONTEXT:  COPY t, line 3: (not shown)"),
        ("CONTEXT:  COPY t, line 3, column n: null input", "CONTEXT:  COPY t, line 3, column n: (not shown)"),
        ("CONTEXT:  COPY t, line 3", "CONTEXT:  COPY t, line 3"),
        (
            "DETAIL:  Key (mail, \"b (c)\")=(SECRET@x.org, SECRET) already exists.",
            'DETAIL:  Key (mail, "b (c)")=(not shown) already exists',
        ),
        ("DETAIL:  Key (i)=(SECRET) is duplicated.", "DETAIL:  Key (i)=(not shown) is duplicated"),
        (
            'DETAIL:  Key (i)=(SECRET) is not present in table "customers".',
            'DETAIL:  Key (i)=(not shown) is not present in table "customers"',
        ),
        (
            "DETAIL:  Key (r)=([1,SECRET)) conflicts with existing key (r)=([2,SECRET)).",
            "DETAIL:  Key (r)=(not shown)",
        ),
        ("DETAIL:  Failing row contains (1, SECRET, null).", "DETAIL:  Failing row contains (not shown)"),
        (
            "DETAIL:  Partition key of the failing row contains (i) = (SECRET).",
            "DETAIL:  Partition key of the failing row contains (i) = (not shown)",
        ),
        (
            'ERROR:  invalid input syntax for type integer: "SECRET"',
            "ERROR:  invalid input syntax for type integer: (not shown)",
        ),
        ('pg_restore: error: ERROR:  value "SECRET" is out of range for type integer',
         "pg_restore: error: ERROR:  value (not shown)"),
        ('ERROR:  malformed array literal: "SECRET"', "ERROR:  malformed array literal: (not shown)"),
    ],
)  # fmt: skip
def test_data_is_hidden_and_the_rest_stays(said: str, shown: str) -> None:
    assert redact(said) == [shown]


@pytest.mark.parametrize(
    "line",
    [
        'pg_restore: error: could not execute query: ERROR:  relation "t" already exists',
        "Command was: COPY public.t (a, b) FROM stdin;",
        "DETAIL:  Object depends on type x.",
        "CONTEXT:  PL/pgSQL function f() line 3 at RAISE",
        "pg_restore: processing data for table \"public.t\"",
    ],
)  # fmt: skip
def test_other_lines_are_left_alone(line: str) -> None:
    assert redact(line) == [line]


def test_a_value_of_several_lines_is_hidden_to_its_end() -> None:
    said = (
        'pg_restore: error: COPY failed for table "t": ERROR:  invalid input syntax for type json\n'
        'DETAIL:  Key (a)=(SECRET "\nSECRET) (\nSECRET) already exists.\n'
        'CONTEXT:  JSON data, line 1: {"SECRET...\n'
        'COPY t, line 7, column j: "{"SECRET\nSECRET\n"SECRET"...\n"\n'
        "Command was: SELECT 1;\nafter it"
    )
    assert redact(said) == [
        'pg_restore: error: COPY failed for table "t": ERROR:  invalid input syntax for type json',
        "DETAIL:  Key (a)=(not shown)",
        "CONTEXT:  JSON data, line 1: (not shown)",
        "COPY t, line 7, column j: (not shown)",
        "Command was: SELECT 1;",
        "after it",
    ]


def test_neither_the_log_nor_the_error_of_a_program_holds_data() -> None:
    said = 'ERROR:  no\nCONTEXT:  COPY t, line 2, column a: "SECRET\nSECRET"\nlast: SECRET'
    logged: list[str] = []
    argv = [sys.executable, "-c", f"import sys; sys.stderr.write({said!r}); sys.exit(3)"]
    with (
        running(argv, env={}, on_line=logged.append) as program,
        pytest.raises(ClientProgramError) as raised,
    ):
        program.check()
    assert logged == ["ERROR:  no", "CONTEXT:  COPY t, line 2, column a: (not shown)"]
    assert "COPY t, line 2" in str(raised.value)
    assert "SECRET" not in str(raised.value)
