"""A parser for pg_restore's errors that tells harmless ones from others."""

from __future__ import annotations

import time

from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.postgres.client_program import ClientProgram
from airflow_pg_s3.core.restore.load.last_login import LastLogin

_POLL_SECONDS = 0.01
# Time for pg_restore to print which command failed, before it is terminated.
_EXPLAIN_SECONDS = 1.0
_FAILED_QUERY = "could not execute query: "
# A newer pg_restore sends this setting to an older server, which neither knows nor needs it.
_UNKNOWN_SETTING = _FAILED_QUERY + 'ERROR:  unrecognized configuration parameter "transaction_timeout"'
_SET_COMMAND = "Command was: SET transaction_timeout = 0;"


class PgRestoreErrors:
    """Counts pg_restore's errors, and how many of them are harmless.

    What an error quotes (the body of a function, a message that a trigger raises) can hold any text, even that of
    a harmless error. But each error begins with a line in pg_restore's and the server's own words. Once such a
    line is not that of a harmless error, the run has failed, whatever follows.

    Parallel workers share one standard error. Each writes a line in pieces (``pg_restore:``, a space, ``error: ``,
    the rest; PostgreSQL's logging.c), and these pieces are interleaved. So the lines of the harmless error are
    counted by their pieces.
    """

    def __init__(self) -> None:
        self._errors = 0
        self._unknown_settings = 0
        self._set_commands = 0
        self._is_serious = False
        self._is_explained = False

    @property
    def is_fatal(self) -> bool:
        """True if an error was not harmless."""
        return self._is_serious

    @property
    def are_explained(self) -> bool:
        """True if pg_restore has also named the command of the error that was not harmless."""
        return self._is_explained

    @property
    def are_harmless(self) -> bool:
        """True if there were errors, all of them harmless; final once pg_restore has ended."""
        return not self._is_serious and 0 < self._errors == min(self._unknown_settings, self._set_commands)

    @property
    def is_empty(self) -> bool:
        """True if there was no error; final once pg_restore has ended."""
        return not self._is_serious and self._errors == 0

    def see(self, line: str) -> None:
        """Parse a line of standard error."""
        if self._is_serious:
            self._is_explained = self._is_explained or "Command was: " in line
            return
        self._errors += line.count("error: ")
        self._unknown_settings += line.count(_UNKNOWN_SETTING)
        self._set_commands += line.count(_SET_COMMAND)
        self._is_serious = _is_of_another_error(line)


def _is_of_another_error(line: str) -> bool:
    """True if a line holds more than pieces of the harmless error about an unknown setting."""
    if "COPY failed" in line or line.count(_FAILED_QUERY) != line.count(_UNKNOWN_SETTING):
        return True
    _, error, text = line.rpartition("error: ")
    return bool(error) and not text.replace("pg_restore:", "").lstrip(" ").startswith(
        (_UNKNOWN_SETTING, _SET_COMMAND)
    )


def check_outcome(
    program: ClientProgram, errors: PgRestoreErrors, *, tolerant: bool, last_login: LastLogin | None = None
) -> None:
    """Raise unless pg_restore has succeeded, or all its errors are harmless.

    :param tolerant: whether errors can be harmless.
    :param last_login: the parser for its last login, if that may fail.
    :raises ClientProgramError: pg_restore has failed, or can no longer succeed.
    """
    if tolerant and errors.is_fatal:
        deadline = time.monotonic() + _EXPLAIN_SECONDS
        while program.poll() is None and not errors.are_explained and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        program.end()
        raise ClientProgramError(program.name, 1, program.stderr_tail())
    try:
        program.check()
    except ClientProgramError:
        program.stderr_tail()  # waits until all lines have been parsed
        is_done = last_login is not None and last_login.has_failed and errors.is_empty
        if not ((is_done or (tolerant and errors.are_harmless)) and program.poll() == 1):
            raise
