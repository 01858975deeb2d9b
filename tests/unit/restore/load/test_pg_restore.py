"""Which of pg_restore's errors mean nothing; what an error quotes must never be taken for one of these."""

import pytest

from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.postgres.archive.use_list import use_list
from airflow_pg_s3.core.postgres.client_program import running
from airflow_pg_s3.core.restore.load.error_parser import PgRestoreErrors, check_outcome
from tests.support.interleaving import interleavings

SETTING = [
    "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "
    '"transaction_timeout"',
    "Command was: SET transaction_timeout = 0;",
]
KEY = [
    'pg_restore: error: could not execute query: ERROR:  cannot drop inherited constraint "p1_pkey" of relation '
    '"p1"',
    "Command was: ALTER TABLE IF EXISTS ONLY public.p1 DROP CONSTRAINT IF EXISTS p1_pkey;",
]
END = ["pg_restore: warning: errors ignored on restore: 3"]
FUNCTION = [
    'pg_restore: error: could not execute query: ERROR:  language "plnothing" does not exist',
    "Command was: CREATE FUNCTION f() RETURNS void LANGUAGE plnothing AS $$",
]
COPY = ['pg_restore: error: COPY failed for table "t": ERROR:  no']


def outcome(lines: list[str]) -> str:
    errors = PgRestoreErrors()
    for line in lines:
        errors.see(line)
    assert not (errors.is_fatal and errors.are_harmless)
    return "serious" if errors.is_fatal else "harmless" if errors.are_harmless else "unclear"


@pytest.mark.parametrize(
    "lines",
    [SETTING, [*SETTING, *SETTING, *END], SETTING * 40],
)
def test_the_known_error_is_harmless(lines: list[str]) -> None:
    assert outcome(lines) == "harmless"


def test_lines_of_several_workers_may_be_mixed() -> None:
    text = "\n".join(SETTING).removeprefix("pg_restore: error: ") + "\n"
    for said in interleavings(text, text):
        assert outcome([*SETTING, *said.splitlines()]) == "harmless", said


def test_an_error_is_serious_wherever_lines_of_another_worker_are_mixed_into_it() -> None:
    texts = ["\n".join(lines).removeprefix("pg_restore: error: ") + "\n" for lines in (SETTING, FUNCTION)]
    for said in interleavings(*texts):
        assert outcome([*said.splitlines(), *SETTING]) == "serious", said


@pytest.mark.parametrize("before", [[], SETTING])
@pytest.mark.parametrize(
    "lines",
    [
        FUNCTION,
        KEY,
        # The body of a function that cannot be created.
        [*FUNCTION, *SETTING, *SETTING],
        [*FUNCTION, *KEY],
        [*FUNCTION, "could not execute query: ERROR:  " + SETTING[0].partition("ERROR:  ")[2], SETTING[1]],
        # What a domain's check raises while data is loaded.
        COPY,
        [*COPY, *SETTING],
        [*COPY, SETTING[0].removeprefix("pg_restore: error: "), SETTING[1]],
        [*COPY, *KEY],
        # The key of a value, in the message about the constraint that it breaks.
        ['pg_restore: error: could not execute query: ERROR:  could not create unique index "p1_pkey"', *KEY],
        # The right error of a wrong command, and the other way round.
        [KEY[0], "Command was: ALTER TABLE ONLY public.p1 ADD CONSTRAINT p1_pkey PRIMARY KEY (i);", KEY[1]],
        [FUNCTION[0], KEY[1]],
        [FUNCTION[0], SETTING[1]],
        ["pg_restore: error: could not execute query: FATAL:  terminating connection", SETTING[1]],
        ['pg_restore: error: could not set default_tablespace: ERROR:  invalid value for parameter "x"'],
        ["pg_restore: error: connection to server was lost", *SETTING],
    ],
)
def test_any_other_error_is_serious_at_once_whatever_it_quotes(before: list[str], lines: list[str]) -> None:
    assert outcome([*before, *lines]) == "serious"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        END,
        SETTING[:1],
        SETTING[1:],
        KEY[:1],
        # What is raised as a warning cannot make up for an error.
        ["pg_restore: error: ", *SETTING[1:]],
    ],
)
def test_what_is_not_whole_is_not_harmless(lines: list[str]) -> None:
    assert outcome(lines) != "harmless"


@pytest.fixture
def run(fake_program, tmp_path):
    """(lines, status, tolerant=…) → runs a pg_restore that says these lines, until its outcome is checked."""

    def check(lines: list[str], status: int, *, tolerant: bool) -> None:
        (tmp_path / "said").write_text("".join(f"{line}\n" for line in lines))
        program = fake_program(f"cat {tmp_path}/said >&2; exit {status}").path("pg_restore")
        errors = PgRestoreErrors()
        with running([program], env={"PATH": "/bin:/usr/bin"}, on_line=errors.see) as running_program:
            check_outcome(running_program, errors, tolerant=tolerant)

    return check


def test_harmless_errors_are_tolerated_where_they_are_expected(run) -> None:
    run([*SETTING, *END], 1, tolerant=True)
    with pytest.raises(ClientProgramError, match="status 1"):
        run([*SETTING, *END], 1, tolerant=False)


@pytest.mark.parametrize("status", [2, 127])
def test_another_status_is_never_tolerated(run, status: int) -> None:
    with pytest.raises(ClientProgramError, match=f"status {status}"):
        run(SETTING, status, tolerant=True)


def test_an_error_is_raised_with_its_words(run) -> None:
    with pytest.raises(ClientProgramError, match=r'(?s)language "plnothing" does not exist.*Command was: CREATE'):
        run([*SETTING, *FUNCTION, *SETTING], 1, tolerant=True)


def test_a_list_for_pg_restore_names_the_entries_in_their_order(tmp_path) -> None:
    file = tmp_path / "use.list"
    assert use_list(file, [30, 4]) == f"--use-list={file}"
    assert file.read_text() == "30;\n4;\n"
