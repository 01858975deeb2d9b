"""SQL text is cut where PostgreSQL would cut it, whatever stands in quotes, comments and bodies."""

import pytest

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.sql_text import Token, split, tokenize

WHOLE = [
    "SELECT ';', 'it''s;', E'\\';', e'\\\\', U&'\\003b;'",
    'SELECT 1 AS "a;""b"',
    "SELECT $$;$$, $a$ $$; $b$ $a$, $_é1$;$_é1$, a$b$c",
    "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)",
    "CREATE FUNCTION f() LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT begin; END",
    "CREATE OR REPLACE PROCEDURE p(begin int) BEGIN ATOMIC SELECT 1; END",
    "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS $_$SELECT 1; SELECT 2$_$",
    "CREATE TABLE begin (atomic int)",
    "SELECT 1 - 2 / 3, $1",
]


@pytest.mark.parametrize("statement", WHOLE)
def test_a_statement_stays_whole(statement: str) -> None:
    assert list(split(f"SELECT 0;\n{statement};\nSELECT 9;")) == ["SELECT 0", statement, "SELECT 9"]


def test_comments_and_commands_of_psql_between_statements_are_left_out() -> None:
    script = (
        "--\n-- it's a dump; really\n--\n\n\\restrict abc\n\nSET a = 1;\n/* two /* nested; */ ' */\n"
        "SELECT 1 -- it's ;\n+ /* ; */ 2;;\n\n\\unrestrict abc\n\\echo x\n"
    )
    assert list(split(script)) == ["SET a = 1", "SELECT 1  \n+   2"]


def test_a_backslash_within_a_statement_is_none_of_psqls_commands() -> None:
    assert list(split("COMMENT ON ROLE r IS 'a\n\\q\nb';")) == ["COMMENT ON ROLE r IS 'a\n\\q\nb'"]


def test_backslashes_escape_in_every_string_if_they_are_said_to() -> None:
    script = "SELECT 'a\\'; b';SELECT 2"
    assert list(split(script, backslashes=True)) == ["SELECT 'a\\'; b'", "SELECT 2"]
    assert tokenize("SELECT 'a\\'; b'", backslashes=True)[1] == Token("a'; b", "'", 0)


@pytest.mark.parametrize("script", ["SELECT 'a", 'SELECT "a', "SELECT $$a", "SELECT $a$ $$", "SELECT 1 /* /* */"])
def test_a_script_that_ends_within_quotes_is_refused(script: str) -> None:
    with pytest.raises(IntegrityError, match="the script ends within"):
        list(split(script))


def test_words_are_told_apart_by_their_quotes_and_depth() -> None:
    found = tokenize(r"""GRANT SELECT("TO") ON "a ""b"" c" TO x, E'it\\''s' -- "no" word""")
    assert found == [
        Token("GRANT", "", 0),
        Token("SELECT", "", 0),
        Token("(", "", 0),
        Token("TO", '"', 1),
        Token(")", "", 0),
        Token("ON", "", 0),
        Token('a "b" c', '"', 0),
        Token("TO", "", 0),
        Token("x", "", 0),
        Token(",", "", 0),
        Token("it\\'s", "'", 0),
    ]
    assert [word.sql for word in found[-3:]] == ["x", ",", "E'it\\\\''s'"]
    assert found[6].sql == '"a ""b"" c"'
    assert found[7].is_bare("TO", "FROM")
    assert not found[3].is_bare("TO", "FROM")
