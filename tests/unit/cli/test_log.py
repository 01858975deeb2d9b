"""Lines go to standard error; a terminal gets a bar below them."""

import os
import pty
import sys

import pytest

from airflow_pg_s3.cli.log import open_log
from airflow_pg_s3.core import reporting
from airflow_pg_s3.core.reporting import Progress, end_stage, say_result


def unchanged(text: str) -> str:
    return text


def test_a_terminal_shows_how_far_it_is(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with open_log(unchanged, None, quiet=False) as log:
            progress = Progress(log, lambda _: "read 1 MB of 4 MB", lambda: (1 << 20, 4 << 20))
            log.info("a line of %s", "[bold] text")
            progress.tick()
            end_stage(log)
            stream.write("a result by another way\n")
            seen = b""
            while not seen.endswith(b"another way\r\n"):
                seen += os.read(ours, 1 << 16)
    written = seen.decode()
    os.close(ours)
    assert "a line of [bold] text" in written
    assert "25%" in written
    assert "read 1 MB of 4 MB" in written
    # The bar's line was erased before.
    assert written.partition("a result by another way")[0].endswith("\x1b[2K")


def test_elsewhere_there_are_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(reporting, "INTERVAL_SECONDS", 0.0)
    with open_log(str.upper, None, quiet=False) as log:
        Progress(log, lambda _: "read 100%", lambda: (1, 1)).tick()
        log.warning("look: %d", 1)
        log.error("why")
    assert capsys.readouterr() == ("", "READ 100%\nWARNING: LOOK: 1\nERROR: WHY\n")


@pytest.mark.parametrize("quiet", [True, False])
def test_a_result_that_is_a_line_goes_to_standard_output(capsys, quiet):
    with open_log(str.upper, sys.stdout, quiet=quiet) as log:
        say_result(log, "restored %d", 1)
    assert capsys.readouterr() == ("RESTORED 1\n", "")


def test_a_result_that_nobody_takes_is_a_line_like_others(capsys):
    with open("/dev/full", "w") as full:
        with open_log(unchanged, full, quiet=True) as log:
            say_result(log, "pruned %s", "a")
            say_result(log, "pruned %s", "b")
        full.write("nobody tries to write it again")
    assert capsys.readouterr().err == (
        "warning: the result cannot be written (No space left on device), which is:\npruned a\npruned b\n"
    )


def test_beside_a_result_for_programs_it_is_a_line_like_others(capsys):
    with open_log(unchanged, None, quiet=False) as log:
        say_result(log, "restored %d", 1)
    assert capsys.readouterr() == ("", "restored 1\n")


def test_quiet_leaves_warnings_and_errors(capsys):
    with open_log(unchanged, None, quiet=True) as log:
        log.info("what happens")
        log.warning("what matters")
    assert capsys.readouterr().err == "warning: what matters\n"
