"""What leaves a verb is one of our errors, without rows; a bug stays what it is."""

import errno
import traceback

import psycopg
import pytest

from airflow_pg_s3.core.errors import InputError, PgS3Error, ServerError
from airflow_pg_s3.core.postgres.errors import translate_errors


def raising(error: Exception):
    @translate_errors
    def verb(what: str) -> None:
        """Say what it does."""
        raise error

    return verb


def test_what_postgresql_says_is_kept_without_the_rows_that_it_quotes():
    said = 'duplicate key value violates unique constraint "k"\nDETAIL:  Key (name)=(SECRET) already exists.'
    with pytest.raises(ServerError) as caught:
        raising(psycopg.errors.UniqueViolation(said))("x")
    assert str(caught.value) == (
        'PostgreSQL failed (23505): duplicate key value violates unique constraint "k"\n'
        "DETAIL:  Key (name)=(not shown) already exists"
    )
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "said",
    [
        'invalid input syntax for type integer: "SECRET"',
        'invalid input value for enum mood: "SECRET"',
        'malformed array literal: "SECRET"',
        'date/time field value out of range: "SECRET"',
        'value "SECRET" is out of range for type integer',
    ],
)
def test_values_in_the_message_itself_are_hidden_too(said: str):
    with pytest.raises(ServerError) as caught:
        raising(psycopg.errors.DataError(said))("x")
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    assert "(not shown)" in str(caught.value)


def test_where_it_happened_is_told():
    with pytest.raises(ServerError) as caught:
        raising(psycopg.errors.UndefinedTable("no such table"))("x")
    assert str(caught.value) == "PostgreSQL failed (42P01): no such table"
    assert caught.traceback[-1].name == "verb"


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EMFILE, "ulimit -n"), (errno.ENOSPC, "spool_dir"), (errno.EAGAIN, "fewer jobs")]
)
def test_what_the_machine_lacks_is_said_with_what_to_do(number: int, said: str):
    with pytest.raises(PgS3Error, match=said) as caught:
        raising(OSError(number, "the system's text"))("x")
    assert "the system's text" in str(caught.value)


@pytest.mark.parametrize("error", [InputError("as it is"), ValueError("a bug"), OSError(errno.EBADF, "a bug")])
def test_all_else_is_passed_on_as_it_is(error: Exception):
    with pytest.raises(type(error)) as caught:
        raising(error)("x")
    assert caught.value is error


def test_a_verb_keeps_its_name_and_its_text():
    verb = raising(ValueError())
    assert (verb.__name__, verb.__doc__) == ("verb", "Say what it does.")
