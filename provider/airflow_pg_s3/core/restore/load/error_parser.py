"""The errors of pg_restore: which there were, and which do not count."""

from __future__ import annotations

import time

from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.postgres.client_program import ClientProgram
from airflow_pg_s3.core.restore.load.last_login import LastLogin

_LOOK_SECONDS = 0.01
# How long pg_restore is given to say which command failed, before it is ended.
_EXPLAIN_SECONDS = 1.0
_FAILED_QUERY = "could not execute query: "
# A newer pg_restore sends this setting; an older server does not know it, and does not need it.
_UNKNOWN_SETTING = _FAILED_QUERY + 'ERROR:  unrecognized configuration parameter "transaction_timeout"'
_SET_COMMAND = "Command was: SET transaction_timeout = 0;"


class PgRestoreErrors:
    """Counts pg_restore's errors, and those of them that mean nothing.

    What an error quotes (the body of a function, a message that a trigger raises) can hold any text, also that of
    a harmless error. But each error begins with a line in pg_restore's and the server's own words: once one such
    line is not of a harmless error, the run has failed, whatever follows.

    Parallel workers write to one standard error, each line in pieces (``pg_restore: ``, ``error: ``, the rest),
    which come out mixed. So the lines of the one error that workers make are looked for by pieces, and counted.
    """

    def __init__(self) -> None:
        self._errors = 0
        self._unknown_settings = 0
        self._set_commands = 0
        self._is_serious = False
        self._is_explained = False

    @property
    def is_fatal(self) -> bool:
        """Whether there was an error that is not harmless."""
        return self._is_serious

    @property
    def are_explained(self) -> bool:
        """Whether the command of such an error has been named, too."""
        return self._is_explained

    @property
    def are_harmless(self) -> bool:
        """Whether there were errors, and all of them harmless; known once pg_restore has ended."""
        return not self._is_serious and 0 < self._errors == min(self._unknown_settings, self._set_commands)

    @property
    def is_empty(self) -> bool:
        """Whether there was no error at all; known once pg_restore has ended."""
        return not self._is_serious and self._errors == 0

    def see(self, line: str) -> None:
        """Look at a line of standard error."""
        if self._is_serious:
            self._is_explained = self._is_explained or "Command was: " in line
            return
        self._errors += line.count("error: ")
        self._unknown_settings += line.count(_UNKNOWN_SETTING)
        self._set_commands += line.count(_SET_COMMAND)
        self._is_serious = _tells_of_another_error(line)


def _tells_of_another_error(line: str) -> bool:
    """Whether a line is not only made of pieces of the error that an unknown setting is."""
    if "COPY failed" in line or line.count(_FAILED_QUERY) != line.count(_UNKNOWN_SETTING):
        return True
    _, error, text = line.rpartition("error: ")
    return bool(error) and not text.replace("pg_restore: ", "").startswith((_UNKNOWN_SETTING, _SET_COMMAND))


def check_outcome(
    program: ClientProgram, errors: PgRestoreErrors, *, tolerant: bool, last_login: LastLogin | None = None
) -> None:
    """Raise unless pg_restore has ended well, or all its errors mean nothing.

    :param tolerant: whether there may be such errors.
    :param last_login: what has listened to it, if it may fail to log in once more at its end.
    :raises ClientProgramError: it has failed, or is about to.
    """
    if tolerant and errors.is_fatal:
        deadline = time.monotonic() + _EXPLAIN_SECONDS
        while program.poll() is None and not errors.are_explained and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        program.end()
        raise ClientProgramError(program.name, 1, program.stderr_tail())
    try:
        program.check()
    except ClientProgramError:
        program.stderr_tail()  # all lines have come
        is_done = last_login is not None and last_login.has_failed and errors.is_empty
        if not ((is_done or (tolerant and errors.are_harmless)) and program.poll() == 1):
            raise
