"""The parts of a comparison that need no server: digests of rows, and definitions in other words."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.postgres.archive.schema_script import Entry, parse
from airflow_pg_s3.core.repository.digest import COPY_TERMINATOR
from airflow_pg_s3.core.verify.comparison.row_digest import (
    DigestInAnyOrder,
    compare_in_pieces,
    first_different_byte,
)
from airflow_pg_s3.core.verify.comparison.schema_diff import compare_schemas
from airflow_pg_s3.core.verify.comparison.schema_reader import about_words
from airflow_pg_s3.core.verify.comparison.table_catalog import RestoredTable

ROWS = [b"1\ta\n", b"2\t\\N\n", b"3\t\\\\.\n", b"\n", b"4\tx\\ny\n"]
rows = st.lists(st.sampled_from([*ROWS, b"5\tb\n"]), max_size=30)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def pieces_of(chunks: list[bytes]) -> list[tuple[int, str]]:
    return [(len(chunk), hashlib.sha256(chunk).hexdigest()) for chunk in chunks]


@given(rows, st.integers(1, 20), st.integers(1, 20))
def test_what_is_equal_is_equal_however_it_comes(lines: list[bytes], size: int, other: int):
    data = b"".join(lines) + COPY_TERMINATOR
    compared = compare_in_pieces(cut(data, other), pieces_of(cut(data, size)))
    assert (compared.raw_bytes, compared.newlines) == (len(data), len(lines) + 3)
    assert compared.difference is None


@given(rows, rows, st.integers(1, 20), st.integers(1, 20))
def test_the_first_piece_and_in_it_the_first_row_that_differ_are_found(
    expected: list[bytes], found: list[bytes], size: int, other: int
):
    chunks = cut(b"".join(expected) + COPY_TERMINATOR, size)
    data = b"".join(found) + COPY_TERMINATOR
    compared = compare_in_pieces(cut(data, other), pieces_of(chunks))
    assert (compared.raw_bytes, compared.newlines) == (len(data), len(found) + 3)
    equal = next((n for n, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    if equal is None and len(expected) != len(found):
        equal = min(len(expected), len(found))
    if equal is None:
        assert compared.difference is None
        return
    difference = compared.difference
    assert difference.number == next(
        n for n, chunk in enumerate(chunks) if data[n * size : n * size + len(chunk)] != chunk
    )
    chunk = chunks[difference.number]
    first = first_different_byte(chunk, difference.found)
    assert difference.newlines_before + chunk.count(b"\n", 0, first) == equal


def test_what_is_too_much_is_not_kept():
    blocks = iter([b"x" * 10] * 1000)
    difference = compare_in_pieces(blocks, pieces_of([b"x" * 10])).difference
    assert (difference.number, difference.found) == (1, b"x" * 10)
    assert next(blocks, None) is None


def test_nothing_where_something_was_is_a_difference():
    difference = compare_in_pieces([], pieces_of([b"a\n", b"b\n"])).difference
    assert (difference.number, difference.newlines_before, difference.found) == (0, 0, b"")


@given(st.permutations(range(20)), st.integers(1, 30))
def test_rows_in_any_order_of_rows_and_columns_have_one_digest(order: list[int], size: int):
    def digest(data: bytes, columns: list[str]) -> tuple[int, int]:
        sums = DigestInAnyOrder(columns)
        for block in cut(data, size):
            sums.write(block)
        return sums.sum_and_rows

    expected = digest(b"".join(b"%d\tx%d\ty\n" % (i, i) for i in range(20)), ["a", "b", "c"])
    assert digest(b"".join(b"y\t%d\tx%d\n" % (i, i) for i in order) + COPY_TERMINATOR, ["c", "a", "b"]) == expected
    assert digest(b"".join(b"x%d\t%d\ty\n" % (i, i) for i in order), ["a", "b", "c"]) != expected
    assert digest(b"".join(b"%d\tx%d\ty\n" % (i, i) for i in order[1:]), ["a", "b", "c"]) != expected


def test_what_a_server_keeps_for_itself_among_the_options_of_columns_is_left_out_and_nothing_else():
    alter = 'ALTER TABLE ONLY s."a b" ALTER COLUMN "c\n""d" SET '
    foreign = "ALTER FOREIGN TABLE ONLY s.a ALTER COLUMN c SET "
    text = "CREATE TABLE s.a (\n    t text DEFAULT 'SET (pg_attver=1);'\n);\n"
    (lines,) = _of_one("TABLE", f"{text}{alter}(pg_attver=12);\n{foreign}(pg_attver=3);\n")
    assert lines == [*text.splitlines(), "-- access method heap"]
    for options in ("pg_attver=12, n_distinct=5", "n_distinct=5, pg_attver=12", "n_distinct=5"):
        (lines,) = _of_one("MATERIALIZED VIEW", f"{text}{alter}({options});\n")
        assert lines == [*text.splitlines(), *f"{alter}(n_distinct=5);".split("\n"), "-- access method heap"]
    (lines,) = _of_one("FUNCTION", f"{alter}(pg_attver=12);\n")
    assert "\n".join(lines) == f"{alter}(pg_attver=12);"


def _of_one(kind: str, text: str) -> list[list[str]]:
    header = f"--\n-- Name: a; Type: {kind}; Schema: s; Owner: o\n--\n\n"
    (texts,) = parse(f"SET default_table_access_method = heap;\n\n{header}{text}\n").entries.values()
    return texts


def test_a_row_twice_is_not_the_row_once():
    once, twice = DigestInAnyOrder(["a"]), DigestInAnyOrder(["a"])
    once.write(b"x\n")
    twice.write(b"x\nx\n")
    assert once.sum_and_rows != twice.sum_and_rows


@pytest.mark.parametrize(
    ("kind", "condition", "columns", "command"),
    [
        ("r", b"", ["b", "a"], b'COPY "s"."t" ("b", "a") TO STDOUT'),
        ("r", b"", [], b'COPY "s"."t" TO STDOUT'),
        ("r", b"WHERE mine", ["a"], b'COPY (SELECT "a" FROM "s"."t" WHERE mine) TO STDOUT'),
        ("f", b"", ["a"], b'COPY (SELECT "a" FROM "s"."t" ) TO STDOUT'),
    ],
)
def test_tables_are_read_as_pg_dump_reads_them(kind: str, condition: bytes, columns: list[str], command: bytes):
    table = RestoredTable(
        oid=1,
        schema="s",
        name="t",
        quoted=b'"s"."t"',
        kind=kind,
        columns={"a": b'"a"', "b": b'"b"'},
        of_extension=bool(condition),
        condition=condition,
        root=None,
    )
    assert table.copy_command(columns) == command


# -- definitions --------------------------------------------------------------------------------------------------

TEMPLATE = """SET standard_conforming_strings = on;
--
-- Name: {name}; Type: {kind}; Schema: s; Owner: me
--

{text}


--
-- PostgreSQL database dump complete
--

\\unrestrict {key}
"""


def differences(kind: str, a: str, b: str, *, same_major: bool = False, name: str = "n") -> list[str]:
    texts = [parse(TEMPLATE.format(name=name, kind=kind, text=text, key=hash(text))) for text in (a, b)]
    return [found.detail for found in compare_schemas(*texts, same_major=same_major)]


BASE = 'CREATE VIEW s.n AS\n SELECT base.id,\n    base."group"\n   FROM s.base\n  WHERE (base.id > 5);'


@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [
        ("VIEW", BASE, 'CREATE VIEW s.n AS\n SELECT id,\n    "group"\n   FROM s.base\n  WHERE (id > 5);'),
        ("VIEW", "SELECT b.id FROM s.t b", "SELECT id FROM s.t b"),
        ("TABLE", "CREATE TABLE s.n (\n    json json\n);", 'CREATE TABLE s.n (\n    "json" json\n);'),
        (
            "DEFAULT ACL",
            "ALTER DEFAULT PRIVILEGES FOR ROLE me GRANT SELECT ON TABLES  TO you;",
            "ALTER DEFAULT PRIVILEGES FOR ROLE me GRANT SELECT ON TABLES TO you;",
        ),
        (
            "ACL",
            "GRANT ALL ON TABLE s.n TO you;\nREVOKE ALL ON TABLE s.n FROM me;",
            "REVOKE SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON TABLE s.n FROM me;\n"
            "GRANT SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON TABLE s.n TO you;",
        ),
        (
            "FOREIGN TABLE",
            "ALTER FOREIGN TABLE s.n ALTER COLUMN id OPTIONS (",
            "ALTER FOREIGN TABLE ONLY s.n ALTER COLUMN id OPTIONS (",
        ),
    ],
)
def test_other_words_of_another_major_are_no_difference(kind: str, a: str, b: str):
    assert differences(kind, a, b) == []
    assert differences(kind, a, b, same_major=True) != []


@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [
        ("VIEW", BASE, BASE.replace("5", "6")),
        ("VIEW", BASE, BASE.replace("base.id", "other.id")),
        ("VIEW", BASE, BASE.replace('base."group"', 'base."Group"')),
        ("VIEW", BASE, BASE.replace("s.base", "base")),
        ("VIEW", "SELECT 'base.x' FROM base", "SELECT 'x' FROM base"),
        ("VIEW", "SELECT lower.id FROM s.t", "SELECT id FROM s.t"),
        ("FUNCTION", BASE, BASE.replace("base.id", "id")),
        ("TABLE", "    a text DEFAULT USER", '    a text DEFAULT "user"'),
        ("FUNCTION", "$$ a\n-- x\n\nb $$", "$$ a\n-- x\nb $$"),
        ("FUNCTION", "$$ a\n-- x\nb $$", "$$ a\n-- y\nb $$"),
        (
            "TABLE",
            "CREATE TABLE s.n (\n    a int,\n    b int\n);",
            "CREATE TABLE s.n (\n    b int,\n    a int\n);",
        ),
        ("FOREIGN TABLE", "ALTER FOREIGN TABLE s.n OWNER TO a;", "ALTER FOREIGN TABLE s.n OWNER TO b;"),
    ],
)
def test_whatever_else_differs_is_a_difference_between_majors_too(kind: str, a: str, b: str):
    assert differences(kind, a, b) != []


def test_what_differs_is_shown_whatever_it_begins_with():
    (detail,) = differences("COMMENT", "-- a\n@@ b\n++ c", "-- x\n@@ b\n++ y")
    assert detail.splitlines()[1:] == ["--- a", "+-- x", "-++ c", "+++ y"]


def test_entries_are_named_as_people_would_call_them():
    assert str(Entry("INDEX", "public", "foo_idx")) == "INDEX public.foo_idx"
    assert str(Entry("COMMENT", "public", "TABLE Some THING")) == "COMMENT of TABLE public.Some THING"
    assert str(Entry("EVENT TRIGGER", "-", "watch")) == "EVENT TRIGGER watch"


def test_access_methods_and_tablespaces_belong_to_the_entry_behind_them():
    header = "--\n-- Name: {}; Type: TABLE; Schema: s; Owner: me{}\n--\n\nCREATE TABLE s.{} ();\n\n\n"
    script = (
        "SET default_table_access_method = heap;\n\n"
        + header.format("a", "", "a")
        + "SET default_tablespace = fast;\n\nSET default_table_access_method = other;\n\n"
        + header.format("b", "; Tablespace: fast", "b")
    )
    entries = parse(script).entries
    assert entries[Entry("TABLE", "s", "a")] == [["CREATE TABLE s.a ();", "-- access method heap"]]
    assert entries[Entry("TABLE", "s", "b")] == [
        ["CREATE TABLE s.b ();", "-- access method other", "-- tablespace fast"]
    ]


PUBLIC = """-- Dumped by pg_dump version {major}.1

--
-- Name: public; Type: SCHEMA; Schema: -; Owner: {owner}
--

{create}


ALTER SCHEMA public OWNER TO {owner};


--
-- Name: SCHEMA public; Type: COMMENT; Schema: -; Owner: {owner}
--

COMMENT ON SCHEMA public IS '{comment}';
"""
ALONE, AMONG_OTHERS = "CREATE SCHEMA public;", "-- *not* creating schema, since initdb creates it"


@pytest.mark.parametrize(
    ("owner", "comment", "differing"),
    [
        ("pg_database_owner", "standard public schema", []),
        ("app", "standard public schema", ["SCHEMA public"]),
        ("pg_database_owner", "ours", ["COMMENT of SCHEMA public"]),
    ],
)
def test_the_schema_public_is_there_whatever_is_said_of_it(owner: str, comment: str, differing: list[str]):
    def written(create: str, major: int = 16) -> str:
        return PUBLIC.format(major=major, owner=owner, create=create, comment=comment)

    def names(expected: str, found: str) -> list[str]:
        return [each.name for each in compare_schemas(parse(expected), parse(found), same_major=True)]

    assert names(written(ALONE), written(AMONG_OTHERS)) == []
    # pg_dump says nothing of a schema as it is in a new database, and before 15 of none.
    assert names(written(ALONE), "-- Dumped by pg_dump version 15.1\n") == differing
    assert names(written(ALONE, 14), "-- Dumped by pg_dump version 14.1\n") == []


def test_slots_of_subscriptions_are_not_compared_and_all_else_is():
    def of(slot: str, publication: str = "p") -> list[list[str]]:
        with_ = f"WITH (connect = false, slot_name = {slot}, streaming = on)"
        text = f"CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION {publication} {with_};"
        return _of_one("SUBSCRIPTION", text)

    assert of("'production'") == of("NONE") != of("NONE", "q")


def test_the_second_dump_uses_the_words_of_the_first():
    given_options = ["--schema=x", "--no-comm", "-x", "--no-owner", "--no-policies", "--quote", "-n", "y"]
    assert about_words(given_options, 18) == [
        "--no-comments", "--no-policies", "--no-privileges", "--quote-all-identifiers",
    ]  # fmt: skip
    assert "--no-policies" not in about_words(given_options, 17)
    assert about_words([], 18) == []
