"""pg_restore's own words tell which table a member belongs to, whatever people call their tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core import archive
from airflow_pg_s3.core.archive import parse_copy_commands
from airflow_pg_s3.core.errors import ClientProgramError, PgS3Error

AWKWARD = [
    "plain",
    "Upper",
    "sp ace",
    'quo"te',
    '"',
    "dot.ted",
    "com,ma",
    "par(en)",
    ") FROM stdin;",
    "new\nline",
    "\n",
    "tab\t",
    "back\\slash",
    "'",
    "ünï €",
    "-- comment",
    "x\n-- TOC entry 7 (class 0 OID 1)\n-- File: 7.dat\n--\n\nCOPY a.b FROM stdin;",
]


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def comment(number, name, schema):
    """What pg_restore writes before a table's data; it makes one line of names with newlines."""
    one_line = [text.replace("\n", " ").replace("\r", " ") for text in (name, schema)]
    return (
        f"--\n-- TOC entry {number} (class 0 OID 16453)\n-- Dependencies: 232\n"
        f"-- Data for Name: {one_line[0]}; Type: TABLE DATA; Schema: {one_line[1]}; Owner: postgres\n"
        f"-- File: {number}.dat\n--\n\n"
    )


def data_of(number, schema, name, columns, root=""):
    listed = f"({', '.join(map(quoted, columns))})" if columns else ""
    command = f"COPY {quoted(schema)}.{quoted(name)} {listed} FROM stdin;\n\\.\n\n\n"
    return comment(number, name, schema) + root + command


def read(script, codec="utf-8"):
    return {
        member: (table.schema, table.name, table.columns, table.through_root)
        for member, table in parse_copy_commands(script.encode(codec), codec=codec).items()
    }


def test_what_a_real_pg_restore_writes_is_read():
    script = (
        "--\n-- PostgreSQL database dump\n--\n\n\\restrict bA3SqAHYFp\n\n"
        "-- Dumped from database version 16.14\n\nSET client_encoding = 'UTF8';\n\n"
        "--\n-- TOC entry 2657 (class 2613 OID 16481)\n"
        "-- Name: 16481; Type: BLOB; Schema: -; Owner: postgres\n--\n\n"
        "SELECT pg_catalog.lo_create('16481');\n\n\n"
        + comment(2650, "t", "-dash")
        + 'COPY "-dash".t (a) FROM stdin;\n\\.\n\n\n'
        + comment(2649, "my table", "my schema")
        + 'COPY "my schema"."my table" (id, "Second", "th""ird") FROM stdin;\n\\.\n\n\n'
        + comment(2655, "nothing", "public")
        + "COPY public.nothing  FROM stdin;\n\\.\n\n\n"
        "--\n-- TOC entry 2695 (class 0 OID 0)\n-- Dependencies: 222\n"
        "-- Name: s; Type: SEQUENCE SET; Schema: public; Owner: postgres\n--\n\n"
        "SELECT pg_catalog.setval('public.s', 1, false);\n\n\n"
        "-- Completed on 2026-11-22 15:16:07 UTC\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
    )
    assert read(script) == {
        "2650.dat": ("-dash", "t", ["a"], False),
        "2649.dat": ("my schema", "my table", ["id", "Second", 'th"ird'], False),
        "2655.dat": ("public", "nothing", [], False),
    }


def test_a_partition_that_is_loaded_through_its_root_is_marked():
    root = "-- load via partition root public.events\n\n"
    script = data_of(5, "public", "events", ["at"], root) + data_of(6, "public", "orders", ["id"])
    assert read(script) == {
        "5.dat": ("public", "events", ["at"], True),
        "6.dat": ("public", "orders", ["id"], False),
    }


@pytest.mark.parametrize("name", AWKWARD, ids=repr)
def test_awkward_names_are_read_wherever_they_stand(name):
    script = data_of(5, name, "t", ["c"]) + data_of(6, "s", name, ["c"]) + data_of(8, "s", "t", ["b", name, "d"])
    assert read(script) == {
        "5.dat": (name, "t", ["c"], False),
        "6.dat": ("s", name, ["c"], False),
        "8.dat": ("s", "t", ["b", name, "d"], False),
    }


names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from('"\n-.,() ;'), min_size=1
)


@given(st.lists(st.tuples(names, names, st.lists(names, max_size=4)), max_size=4))
def test_any_names_at_all_are_read(tables):
    script = "".join(data_of(number, *table) for number, table in enumerate(tables))
    assert read(script) == {f"{number}.dat": (*table, False) for number, table in enumerate(tables)}


def test_a_sequence_that_imitates_the_data_of_a_table_is_an_error_and_never_taken_for_it():
    spoof = "\n-- TOC entry 5 x\n-- File: 5.dat\n--\n\nCOPY a.b  FROM stdin;"
    assert len(spoof) < 64  # fits into a name
    sequence = f"SELECT pg_catalog.setval('public.\"{spoof}\"', 1, false);\n\n\n"
    table = data_of(5, "s", "t", ["c"])
    for script in (table + sequence, sequence + table):
        with pytest.raises(PgS3Error, match=r"names two tables for the archive's member 5\.dat"):
            read(script)


@pytest.mark.parametrize("member", ["toc.dat", "blob_16487.dat", "blobs_9.toc", "../5.dat"])
def test_a_comment_that_claims_what_is_no_tables_member_is_passed_over(member):
    spoof = f"\n-- TOC entry 5 x\n-- File: {member}\n--\n\nCOPY a.b  FROM stdin;\n"
    assert read(f"COMMENT ON LARGE OBJECT 16487 IS '{spoof}';\n" + data_of(5, "s", "t", ["c"])) == {
        "5.dat": ("s", "t", ["c"], False)
    }


@pytest.mark.parametrize(
    ("codec", "name"), [("latin-1", "größe"), ("euc_jp", "表"), ("cp1251", "таблица"), ("utf-8", "größe表")]
)
def test_names_in_the_archives_encoding_are_read(codec, name):
    assert read(data_of(5, name, name, [name]), codec) == {"5.dat": (name, name, [name], False)}


@pytest.mark.parametrize(("raw", "name"), [("größe".encode(), "größe"), ("größe".encode("latin-1"), "größe")])
def test_names_without_an_encoding_are_read_as_best_they_can(raw, name):
    script = comment(5, "x", "public").encode() + b'COPY public."' + raw + b'" (c) FROM stdin;\n'
    assert parse_copy_commands(script, codec="ascii")["5.dat"].name == name


@pytest.mark.parametrize(
    "command",
    [
        "COPY public.t (a FROM stdin;",
        "COPY public.t (a) TO stdout;",
        "COPY public (a) FROM stdin;",
        'COPY public."t (a) FROM stdin;',
        "COPY ",
        "COPY public.t",
        "COPY public.t (",
    ],
)
def test_a_command_that_cannot_be_read_is_an_error(command):
    with pytest.raises(PgS3Error, match="cannot read"):
        read(comment(5, "t", "public") + command)


@pytest.fixture
def toc(tmp_path):
    toc = tmp_path / "toc.copy"
    toc.write_text("the table of contents")
    return toc


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def test_pg_restore_is_asked_with_the_real_contents_and_empty_members(fake_program, folder, toc, tmp_path):
    (tmp_path / "script").write_text(data_of(5, "s", "t", ["c"]))
    tools = fake_program(f"cd '{folder}'; head -c 99 *.* >../seen; cat ../script")
    archive.lay_out(folder, toc, ["5.dat", "blobs_9.toc", "blob_16487.dat"])
    assert list(archive.tables_of_members(folder, tools=tools, codec="utf-8")) == ["5.dat"]
    seen = (tmp_path / "seen").read_text()
    assert seen == "==> 5.dat <==\n\n==> blobs_9.toc <==\n\n==> toc.dat <==\nthe table of contents"


def test_pg_restores_own_failure_comes_out_with_its_words(fake_program, folder, toc):
    archive.lay_out(folder, toc, ["5.dat"])
    tools = fake_program("echo 'pg_restore: error: did not find magic string' >&2; exit 1")
    with pytest.raises(ClientProgramError, match=r"exited with status 1:\n.*did not find magic string"):
        archive.tables_of_members(folder, tools=tools, codec="utf-8")
