"""A pg_restore that fails to log in once more when all is done has done all; any other failure is one."""

import pytest

from airflow_pg_s3.core.restore.load.last_login import LastLogin
from tests.support.interleaving import interleavings

DONE = [
    "pg_restore: connecting to database for restore",
    "pg_restore: processing item 1 SCHEMA s",
    'pg_restore: creating SCHEMA "s"',
    "pg_restore: entering main parallel loop",
    # Two processes at once.
    "pg_restore: pg_restore: launching item 2 TABLE DATA t",
    'processing data for table "s.t"',
    "pg_restore: skipping item 3 COMMENT c",
    "pg_restore: restoring large object with OID 16385",
    "pg_restore: finished item 2 TABLE DATA t",
    "pg_restore: finished main parallel loop",
]
NO_LOGIN = [
    'pg_restore: error: reconnection failed: connection to server at "h" (::1), port 1 failed: FATAL:  PAM',
    'pg_restore: error: connection to server at "h" (::1), port 1 failed: FATAL:  PAM authentication failed',
    'pg_restore: error: connection to server on socket "/s" failed: FATAL:  password authentication failed',
    'pg_restore: error: reconnection to database "d" failed: FATAL:  PAM authentication failed for user "u"',
    'pg_restore: error: connection to database "d" failed: connection to server at "h", port 1 failed: FATAL:',
]


def heard(lines: list[str], items: list[int]) -> tuple[bool, list[str]]:
    """Whether it takes it for a failure of the last login alone, and what is left for others."""
    last = LastLogin(items)
    left = [line for line in lines if not last.takes(line)]
    return last.has_failed, left


@pytest.mark.parametrize("line", NO_LOGIN)
def test_a_login_that_fails_when_all_is_done_does_not_matter(line: str) -> None:
    assert heard([*DONE, line], [1, 2, 3]) == (True, ['processing data for table "s.t"'])


@pytest.mark.parametrize("line", NO_LOGIN)
@pytest.mark.parametrize("end", range(len(DONE)))
def test_a_login_that_fails_before_does(line: str, end: int) -> None:
    failed, left = heard([*DONE[:end], line], [])
    assert not failed
    assert line in left


def test_what_was_missed_does() -> None:
    assert heard([*DONE, NO_LOGIN[0]], [1, 2, 3, 4])[0] is False


@pytest.mark.parametrize(
    "line",
    [
        "pg_restore: error: a worker process died unexpectedly",
        "pg_restore: error: could not execute query: ERROR:  connection to server at x failed: y",
        "pg_restore: creating pg_restore: error: could not execute query: ERROR:  x",
        "pg_restore: warning: errors ignored on restore: 1",
        "DETAIL:  pg_restore says",
    ],
)
def test_any_other_line_is_left_to_others(line: str) -> None:
    assert heard([*DONE, line], [1, 2, 3]) == (False, ['processing data for table "s.t"', line])


def test_messages_of_two_workers_may_be_mixed() -> None:
    for said in interleavings("launching item 7 TABLE DATA a\n", "launching item 8 TABLE DATA b\n", words=""):
        failed, left = heard([*said.splitlines(), *DONE, NO_LOGIN[0]], [1, 2, 3, 7, 8])
        assert failed, said
        # A message whose beginning is in the line of the other one may reach the log.
        assert left[-1] == 'processing data for table "s.t"', said


def test_a_name_that_holds_the_words_is_none_of_them() -> None:
    lines = [
        "pg_restore: creating TABLE launching item 9 x",
        "pg_restore: x finished main parallel loop",
        NO_LOGIN[0],
    ]
    assert heard(lines, [9])[0] is False
    assert heard(lines, [])[0] is False
