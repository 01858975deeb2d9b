"""Options that the operator sets itself cannot be set a second time, however they are spelled."""

import os

import pytest

from airflow_pg_s3.core import options
from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.errors import ClientProgramError, InputError
from airflow_pg_s3.core.options import PG_DUMP_OWNED, PG_RESTORE_OWNED
from lab.postgres import installations

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


def check(words, tools, program="pg_dump", parameter="pg_dump_options"):
    owned = PG_DUMP_OWNED if program == "pg_dump" else PG_RESTORE_OWNED
    options.check(words, tools=tools, program=program, owned=owned, parameter=parameter)


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
    with pytest.raises(InputError, match=r"^pg_dump_options: .* is set by the operator; remove it$"):
        check(words, fake)


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
def test_every_option_of_ours_is_refused_by_the_real_programs_options(tools, program):
    # --encoding and the like are only pg_dump's, some only of late: those that the program knows are refused, and
    # those that it does not are refused as unknown.
    for name in PG_DUMP_OWNED if program == "pg_dump" else PG_RESTORE_OWNED:
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
        ("pg_dump", ["--inserts"]),
        ("pg_dump", ["--rows-per", "5"]),
        ("pg_dump", ["-V"]),
        ("pg_restore", ["-L", "list"]),
        ("pg_restore", ["-l"]),
        ("pg_restore", ["-c"]),
        ("pg_restore", ["-Oxc"]),
        ("pg_restore", ["-C"]),
        ("pg_restore", ["-torders"]),
        ("pg_restore", ["-n", "public"]),
        ("pg_restore", ["-e"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_the_real_programs_spellings_of_our_options_are_refused(tools, program, words):
    with pytest.raises(InputError, match="is set by the operator; remove it"):
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


def test_options_of_a_program_of_tomorrow_pass(fake):
    check(["--with-future", "x", "--with-f=y", "--table=a", "--table-and=b"], fake)


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
        check("--no-owner", fake, parameter="pg_restore_options")


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
