"""What PostgreSQL's messages quote of rows and passwords is hidden; where the row is, stays."""

import sys
import time

import pytest

from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.postgres.client_program import running
from airflow_pg_s3.core.postgres.redaction import Redactor, redacted


def redact(text: str) -> list[str]:
    redactor = Redactor()
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
        (
            "Command was: INSERT INTO public.t (a, b) VALUES (1, 'SECRET');",
            "Command was: INSERT INTO public.t (a, b) VALUES (not shown)",
        ),
        ("LINE 1: ...ame, 'SECRET'), (2, ", "LINE 1: (not shown)"),
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
        "LINE 1: select * from no_such_table",
        "Command was: ALTER TABLE public.users ADD COLUMN password text;",
        "FATAL:  password authentication failed for user \"x\"",
        "server closed the connection",
        "HINT:  Valid options in this context are: host, password",
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


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "Command was: CREATE SUBSCRIPTION s CONNECTION 'host=h password=SECRET' PUBLICATION p;",
            "Command was: CREATE SUBSCRIPTION s CONNECTION (not shown)",
        ),
        (
            "Command was: CREATE USER MAPPING FOR u SERVER s OPTIONS (\n    password 'SECRET\nSECRET'\n);\n\n",
            "Command was: CREATE USER MAPPING FOR u SERVER s OPTIONS (not shown)",
        ),
        ("Command was: alter server s options(x 'SECRET')", "Command was: alter server s options (not shown)"),
        ("Command was: ALTER ROLE r PASSWORD 'SECRET", "Command was: ALTER ROLE r PASSWORD (not shown)"),
        ("Command was: ALTER ROLE r PASSWORD E'\\'SECRET'", "Command was: ALTER ROLE r PASSWORD (not shown)"),
        ("Command was: ALTER ROLE r PASSWORD $x$SECRET$x$", "Command was: ALTER ROLE r PASSWORD (not shown)"),
        ("Command was: alter role r password/* ' */ 'SECRET'", "Command was: alter role r password (not shown)"),
        ("QUERY:  ALTER ROLE r PASSWORD -- so\n'SECRET'", "QUERY:  ALTER ROLE r PASSWORD (not shown)"),
        ("QUERY:  ALTER ROLE r PASSWORD\n'SECRET'", "QUERY:  ALTER ROLE r PASSWORD"),
        ("QUERY:  create subscription s connection\n'SECRET'", "QUERY:  create subscription s connection"),
        (
            "CONTEXT:  SQL statement \"select dblink('host=h sslpassword = SECRET')\"",
            "CONTEXT:  SQL statement \"select dblink('host=h sslpassword =(not shown)",
        ),
        ("QUERY:  select f('postgresql://me:SECRET@host')", "QUERY:  select f('postgresql://me:(not shown)"),
        ("LINE 2: ...SECRET' publication p with (bad)\n    ^", "LINE 2: (not shown)"),
        ('syntax error at or near "\'SECRET\'"', "syntax error at or near (not shown)"),
        (
            'ERROR:  invalid connection string syntax: missing "=" after "SECRET" in connection info string',
            "ERROR:  invalid connection string syntax: (not shown)",
        ),
    ],
)  # fmt: skip
def test_what_opens_another_server_is_hidden_up_to_the_next_line_of_a_program(said: str, shown: str) -> None:
    assert redact(f"{said}\npg_restore: next") == [shown, "pg_restore: next"]
    assert redacted(said) == shown


def test_that_there_is_an_error_is_told_wherever_it_stands() -> None:
    # Another worker wrote "pg_restore:" into the line before.
    for rest in (" \nerror: SECRET", "\n error: SECRET"):
        said = f"Command was: CREATE USER MAPPING FOR u SERVER s OPTIONS (pg_restore:{rest}"
        assert redact(said)[1:] == ["error: (not shown)"]


def test_a_secret_that_begins_where_a_long_line_is_not_shown_any_more_is_hidden_in_the_next() -> None:
    said = f"{'x' * 3990}alter role r password 'SECRET\nSECRET'\npsql: next\n"
    logged: list[str] = []
    argv = [sys.executable, "-c", f"import sys; sys.stderr.write({said!r})"]
    with running(argv, env={}, on_line=logged.append) as program:
        program.check()
        program.stderr_tail()
    assert logged == ["x" * 2000, "psql: next"]


@pytest.mark.parametrize(
    "text", ["password /*", "/**/", "password--", "INSERT INTO x", "://a:", "OPTIONS", "subscription connection "]
)
def test_no_text_takes_long(text: str) -> None:
    began = time.monotonic()
    redacted(text * 20000 + "!")
    assert time.monotonic() - began < 5


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
