"""Options that are not the user's to set are refused, however they are spelled; what leaves data out is known."""

import os

import pytest

from airflow_pg_s3.core.errors import ClientProgramError, InputError
from airflow_pg_s3.core.postgres import client_options
from airflow_pg_s3.core.postgres.client_options import (
    PG_DUMP_ALLOWED,
    PG_DUMP_HOLLOW,
    PG_DUMP_LEAVING_OUT,
    PG_DUMP_REFUSED,
    PG_RESTORE_ALLOWED,
    PG_RESTORE_REFUSED,
)
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from testkit.postgres import installations

# What a program of tomorrow may say: owned and unknown options, with and without values, and text around them.
HELP = """cat <<'HELP'
pg_dump dumps a database.

Usage:
  pg_dump [OPTION]... [DBNAME]

General options:
  -f, --file=FILENAME          output file or directory name
  -F, --format=c|d|t|p         output file format (custom, directory, tar,
                               plain text (default))
  -j, --jobs=NUM               use this many parallel jobs to dump
  -v, --verbose                verbose mode
  -Z, --compress=METHOD[:DETAIL]
                               compress as specified
  -?, --help                   show this help, then exit

Options controlling the output content:
  -t, --table=PATTERN          dump only the specified table(s)
  --table-and-children=PATTERN like --table, but different
  -O, --no-owner               skip restoration of object ownership in
                               plain-text format
  --no-owner-of-future         an option of tomorrow
  --no-sync                    do not wait for changes to be written safely to disk
  --with-future=ANYTHING       an option of tomorrow
  -d, --dbname=DBNAME          database to dump
  -h, --host=HOSTNAME          database server host or socket directory
HELP"""


@pytest.fixture(scope="module", params=sorted(installations()), ids=lambda major: f"PostgreSQL {major}")
def tools(request):
    return ClientTools(major=request.param, version=f"{request.param}.0", folder=installations()[request.param])


@pytest.fixture
def fake(fake_program):
    return fake_program(HELP)


def check(words, tools, program="pg_dump"):
    return client_options.check(words, tools=tools, program=program)


OWNED_SPELLINGS = [
    ["-f", "x"],
    ["-fx"],
    ["-f=x"],
    ["--file=x"],
    ["--file", "x"],
    ["--fil", "x"],
    ["--fil=x"],
    ["-Fp"],
    ["-vFp"],
    ["-vf", "x"],
    ["-j8"],
    ["--jo=8"],
    ["-d", "other"],
    ["-dother"],
    ["--dbn=other"],
    ["--dbname=host=evil"],
    ["-h", "evil"],
    ["-hevil"],
    ["-vhevil"],
    ["-?"],
    ["--hel"],
    ["--no-owner", "--file=x"],
    ["-t", "orders", "-f", "x"],
]


@pytest.mark.parametrize("words", OWNED_SPELLINGS, ids=" ".join)
def test_an_option_of_ours_is_refused_in_every_spelling(fake, words):
    with pytest.raises(InputError, match=r"^pg_dump_options: .* is set by airflow-provider-pg-s3; remove it$"):
        check(words, fake)


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
def test_every_option_of_ours_is_refused_by_the_real_programs_options(tools, program):
    # --encoding and the like are only pg_dump's, some only of late: those that the program knows are refused, and
    # those that it does not are refused as unknown.
    for name in PG_DUMP_REFUSED if program == "pg_dump" else PG_RESTORE_REFUSED:
        for words in ([f"--{name}=x"], [f"--{name}", "x"]):
            with pytest.raises(InputError):
                check(words, tools, program)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("pg_dump", ["-fx"]),
        ("pg_dump", ["-Fp"]),
        ("pg_dump", ["-vFc"]),
        ("pg_dump", ["-Z9"]),
        ("pg_dump", ["-aOxj4"]),
        ("pg_dump", ["-E", "LATIN1"]),
        ("pg_dump", ["-hevil"]),
        ("pg_dump", ["-U", "postgres"]),
        ("pg_dump", ["-W"]),
        ("pg_dump", ["--dbname=postgres://evil/"]),
        ("pg_dump", ["-V"]),
        ("pg_restore", ["-l"]),
        ("pg_restore", ["-c"]),
        ("pg_restore", ["-Oxc"]),
        ("pg_restore", ["-C"]),
        ("pg_restore", ["-e"]),
        ("pg_restore", ["-1"]),
        ("pg_restore", ["-O1x"]),
        ("pg_restore", ["--single"]),
        ("pg_restore", ["--no-data-for"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_the_real_programs_spellings_of_our_options_are_refused(tools, program, words):
    with pytest.raises(InputError, match="is set by airflow-provider-pg-s3; remove it"):
        check(words, tools, program)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("pg_dump", []),
        ("pg_dump", ["--no-owner"]),
        ("pg_dump", ["--no-own"]),
        ("pg_dump", ["-O"]),
        ("pg_dump", ["-Ovx"]),
        ("pg_dump", ["-t", "public.orders"]),
        ("pg_dump", ["-tpublic.orders"]),
        ("pg_dump", ["-vt", "orders"]),
        ("pg_dump", ["-t", "-f"]),
        ("pg_dump", ["--table=-f"]),
        ("pg_dump", ["--table", "--file=x"]),
        ("pg_dump", ["--exclude-table-data=audit.*", "--exclude-schema", "tmp"]),
        ("pg_dump", ["--lock-wait-timeout=5s", "--no-comments"]),
        ("pg_restore", ["--no-owner", "--no-privileges"]),
        ("pg_restore", ["-Ox"]),
        ("pg_restore", ["--role=app"]),
        ("pg_restore", ["--role", "my role"]),
        ("pg_restore", ["--disable-triggers", "-S", "postgres"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options_of_the_users_own_pass(tools, program, words):
    check(words, tools, program)


@pytest.mark.parametrize("option", ["--serializable-deferrable", "--seri"])
@pytest.mark.parametrize(
    "others", [[], ["-vt", "--seri"], ["-t--seri"], ["--table", "--seri", "--role=x"], ["-O"]]
)
def test_an_option_is_left_out_and_no_value_that_looks_like_it(tools, option, others):
    given = [*others, option, "--no-comments"]
    check(given, tools, "pg_dump")
    name = "serializable-deferrable"
    assert client_options.without(given, name, tools=tools, program="pg_dump") == [*others, "--no-comments"]


# Every way in which a restore of less than everything can be asked of pg_restore, and what to say instead.
SELECTING = [
    (["--schema-only"], "schema_only=True"),
    (["--sch", "x"], "has no option '--sch'"),  # of --schema as well
    (["--schema-o"], "schema_only=True"),
    (["-s"], "schema_only=True"),
    (["-Osx"], "schema_only=True"),
    (["--data-only"], "data_only=True"),
    (["--dat"], "data_only=True"),
    (["-as"], "data_only=True"),
    (["--section=pre-data"], "schema_only=True or data_only=True"),
    (["--sect", "data"], "schema_only=True or data_only=True"),
    (["--table=orders"], r"tables=\[…\]"),
    (["-torders"], r"tables=\[…\]"),
    (["-Ot", "orders"], r"tables=\[…\]"),
    (["-n", "public"], r"schemas=\[…\]"),
    (["-nfoo"], r"schemas=\[…\]"),
    (["--schema=foo"], r"schemas=\[…\]"),
    (["-N", "a"], r"exclude_tables=\['<schema>\.\*'\]"),
    (["--exclude=a"], r"exclude_tables=\['<schema>\.\*'\]"),
    (["-I", "i"], "restores that object alone"),
    (["--ind=i"], "restores that object alone"),
    (["-Pf(int)"], "restores that object alone"),
    (["--function=f(int)"], "restores that object alone"),
    (["-T", "x"], "restores that object alone"),
    (["-sT", "x"], "schema_only=True"),
    (["--trig", "x"], "restores that object alone"),
    (["-L", "list"], "tables=, schemas= or exclude_tables="),
    (["--use-l=list"], "tables=, schemas= or exclude_tables="),
]
SELECTING_17 = [
    (["--filter=file"], "tables=, schemas= or exclude_tables="),
    (["--transaction-size=9"], "ends transactions"),
]
SELECTING_18 = [
    (["--no-data"], "schema_only=True"),
    (["--no-schema"], "data_only=True"),
    (["--no-sc"], "data_only=True"),
    (["--statistics-o"], "leaves all rows and definitions out"),
    (["--no-pol"], "opens the rows that row security guards"),
]


@pytest.mark.parametrize(
    ("since", "words", "message"),
    [
        (since, words, message)
        for since, cases in ((0, SELECTING), (17, SELECTING_17), (18, SELECTING_18))
        for words, message in cases
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_restore_of_a_part_is_refused_in_favour_of_our_own_arguments(tools, since, words, message):
    if tools.major < since:
        # --no-data is then the beginning of another one.
        message = "(has no option|is set by airflow-provider-pg-s3)"
    with pytest.raises(InputError, match=f"^pg_restore_options: .*{message}"):
        check(["-v", *words], tools, "pg_restore")


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
def test_somebody_has_looked_at_every_option_that_a_program_has(tools, program):
    # A new one belongs into one of the lists, by what it leaves out of a backup or a restore.
    lists = {
        "pg_dump": (set(PG_DUMP_REFUSED), PG_DUMP_LEAVING_OUT, PG_DUMP_ALLOWED),
        "pg_restore": (set(PG_RESTORE_REFUSED), PG_RESTORE_ALLOWED),
    }[program]
    known = client_options._known_options(tools, program).takes_value
    assert len(known) > 30
    for name in known:
        found = sum(client_options.newest(name) in one for one in lists)
        assert found == 1, f"--{name} is in {found} of the lists of core/postgres/client_options.py"


def test_an_option_that_nobody_has_looked_at_is_refused(fake):
    for words in (["--with-future", "x"], ["--with-f=y"], ["--no-owner-of"]):
        with pytest.raises(InputError) as caught:
            check(["-v", *words], fake)
        assert str(caught.value) == (
            f"pg_dump_options: this version of airflow-provider-pg-s3 does not know what {words[0]!r} of pg_dump "
            "16.14 does: upgrade it, or remove the option"
        )


@pytest.mark.parametrize(
    "words", [["--role=my role"], ["--role", "my role"], ["--rol", "my role"], ["--rol=my role"]], ids=" ".join
)
def test_an_option_reads_the_same_however_it_is_spelled(tools, words):
    for program in ("pg_dump", "pg_restore"):
        assert check(["-Ov", *words, "-x"], tools, program) == [
            ("no-owner", None), ("verbose", None), ("role", "my role"), ("no-privileges", None),
        ]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [["-S", "me"], ["-Sme"], ["-OSme"], ["-OS", "me"], ["--superuser=me"], ["--sup", "me"]],
    ids=" ".join,
)
def test_the_value_of_a_short_option_is_the_rest_of_the_word_or_the_next_one(tools, words):
    assert ("superuser", "me") in check(words, tools, "pg_restore")


def test_values_may_be_empty_or_look_like_options(tools):
    assert check(["--role=", "-S", "", "-S=x", "-S", "-O"], tools, "pg_restore") == [
        ("role", ""), ("superuser", ""), ("superuser", "=x"), ("superuser", "-O"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "left_out_by"),
    [
        ([], []),
        (["-Ovx", "--no-comments", "--no-tablespaces", "--load-via", "-b", "--lock-wait=5s"], []),
        (["-s"], ["--schema-only"]),
        (["-xas"], ["--data-only", "--schema-only"]),
        (["--schema-o"], ["--schema-only"]),
        (["--exclude-table-data=a", "--exclude-table-data", "b.*"], ["--exclude-table-data"]),
        (
            ["-T", "a", "-tb", "-nc", "--exclude-sch=d"],
            ["--exclude-schema", "--exclude-table", "--schema", "--table"],
        ),
        (["-B"], ["--no-large-objects"]),
        (["--no-blobs"], ["--no-large-objects"]),
        (["--section=data", "-eplpgsql"], ["--extension", "--section"]),
        (["--no-unlogged"], ["--no-unlogged-table-data"]),
        # A value, not an option.
        (["--role", "-s"], []),
    ],
    ids=str,
)
def test_what_a_dump_leaves_out_is_known(tools, words, left_out_by):
    assert client_options.left_out_by(check(words, tools)) == left_out_by


@pytest.mark.parametrize(
    ("since", "word", "name"),
    [
        (16, "--exclude-table-data-and=a", "--exclude-table-data-and-children"),
        (16, "--exclude-table-and=a", "--exclude-table-and-children"),
        (16, "--table-and=a", "--table-and-children"),
        (16, "--no-large", "--no-large-objects"),
        (17, "--filter=file", "--filter"),
        (17, "--exclude-ext=a", "--exclude-extension"),
        (18, "--no-data", "--no-data"),
        (18, "--no-sch", "--no-schema"),
        (18, "--statistics-only", "--statistics-only"),
        (18, "--no-pol", "--no-policies"),
    ],
)
def test_what_a_dump_of_a_newer_major_leaves_out_is_known(tools, since, word, name):
    if tools.major >= since:
        assert client_options.left_out_by(check([word], tools)) == [name]
    else:
        with pytest.raises(InputError, match="has no option"):
            check([word], tools)


def test_what_makes_tables_hollow_leaves_something_out():
    assert PG_DUMP_HOLLOW < PG_DUMP_LEAVING_OUT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--inserts"], "writes INSERT commands"),
        (["--rows-per", "5"], "writes INSERT commands"),
        (["--binary-up"], "only pg_upgrade"),
        (["--enable-row"], "leaves out the rows"),
    ],
)
def test_what_makes_a_dump_that_is_no_backup_is_refused(tools, words, message):
    with pytest.raises(InputError, match=f"^pg_dump_options: '{words[0]}' .*{message}"):
        check(words, tools)


@pytest.mark.parametrize("word", ["--frobnicate", "--no-owner-at-all", "-y", "-Oy", "--x=1", "---file=x", "--=x"])
def test_an_unknown_option_is_refused_and_the_version_named(fake, word):
    with pytest.raises(InputError) as caught:
        check([word], fake)
    assert str(caught.value) == f"pg_dump_options: pg_dump 16.14 has no option {word!r}"


def test_an_abbreviation_of_several_options_is_refused(fake):
    with pytest.raises(InputError, match="has no option '--no'"):
        check(["--no"], fake)


@pytest.mark.parametrize("word", ["-t", "--table", "-vt", "--table-and"])
def test_an_option_without_its_value_is_refused(fake, word):
    with pytest.raises(InputError, match=f"'{word}' needs a value"):
        check(["-v", word], fake)


def test_a_value_where_none_belongs_is_refused(fake):
    with pytest.raises(InputError, match="--no-owner takes no value"):
        check(["--no-owner=yes"], fake)


@pytest.mark.parametrize(
    "word", ["orders", "--", "-", "", "dbname=shop host=evil", "postgres://evil/shop", "; rm -rf /", " -f"]
)
def test_a_stray_word_is_refused_as_it_would_name_the_database(fake, word):
    with pytest.raises(InputError, match=r"is not an option .* separate items"):
        check(["-v", word], fake)


@pytest.mark.parametrize("word", ["-t\0", 5, None, ["-t"], b"-v"], ids=repr)
@pytest.mark.parametrize("before", [[], ["-t"]], ids=["as an option", "as a value"])
def test_what_cannot_be_an_argument_is_refused(fake, before, word):
    with pytest.raises(InputError, match="is not an option of pg_dump"):
        check([*before, word], fake)


def test_a_bare_string_is_refused_and_a_list_asked_for(fake):
    with pytest.raises(InputError, match=r"^pg_restore_options must be a list .* not the string '--no-owner'"):
        check("--no-owner", fake, "pg_restore")


def test_a_program_that_needs_the_workers_environment_to_start_gets_it(fake_program, monkeypatch):
    tools = fake_program(f'test -n "$LD_LIBRARY_PATH" || exit 127\n{HELP}')
    monkeypatch.setitem(os.environ, "LD_LIBRARY_PATH", "/opt/lib")
    check(["--no-owner"], tools)


def test_help_is_read_in_english_whatever_the_workers_language(fake_program, monkeypatch):
    tools = fake_program(f'test "$LC_ALL" = C || exit 1\n{HELP}')
    monkeypatch.setitem(os.environ, "LC_ALL", "de_DE.UTF-8")
    check(["--no-owner"], tools)


def test_a_program_that_is_killed_is_our_own_error(fake_program):
    with pytest.raises(ClientProgramError, match="pg_dump was killed by signal 15"):
        check(["--no-owner"], fake_program("kill -TERM $$"))
