"""Runs of pg_restore into one database: what it is called with, and which of its errors mean nothing."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.errors import ClientProgramError
from airflow_pg_s3.core.last_login import LastLogin
from airflow_pg_s3.core.libpq import ConnectionParameters
from airflow_pg_s3.core.pour import pour_into
from airflow_pg_s3.core.process import ClientProgram
from airflow_pg_s3.core.progress import Log
from airflow_pg_s3.core.workspace import Workspace

_LOOK_SECONDS = 0.01
_FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT = 17
# How long pg_restore is given to say which command failed, before it is ended.
_EXPLAIN_SECONDS = 1.0
_FAILED_QUERY = "could not execute query: "
# A newer pg_restore sends this setting; an older server does not know it, and does not need it.
_UNKNOWN_SETTING = _FAILED_QUERY + 'ERROR:  unrecognized configuration parameter "transaction_timeout"'
_SET_COMMAND = "Command was: SET transaction_timeout = 0;"


def knows_less(tools: ClientTools, target_version: int) -> bool:
    """Whether the target does not know a setting that pg_restore sends."""
    return tools.major >= _FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT > target_version // 10000


class PgRestore:
    """pg_restore, with what all its runs of one restore have in common.

    Connects, to see which language the server would speak to the program.

    :param archive_format: ``directory``, ``custom`` or ``tar``.
    :param options: further ones; nothing secret.
    :param target_version: ``server_version_num`` of the target.
    :param lc_monetary: the locale that money is in; None for the server's own.
    :raises InputError: as `ConnectionParameters.environment`.
    """

    def __init__(
        self,
        tools: ClientTools,
        target: ConnectionParameters,
        workspace: Workspace,
        *,
        archive_format: str,
        options: Sequence[str],
        target_version: int,
        lc_monetary: Literal["C"] | None = None,
        log: Log,
    ) -> None:
        self._tools = tools
        self._target = target
        self._folder = workspace.folder
        self._env = target.environment(workspace.folder, lc_monetary=lc_monetary) | workspace.environment
        self._is_tolerant = knows_less(tools, target_version)
        self._arguments = [
            f"--format={archive_format}",
            "--no-password",
            f"--dbname={target.dbname_argument()}",
            # What was there before must not get the data a second time.
            *(["--no-data-for-failed-tables"] if self._is_tolerant else ["--exit-on-error"]),
            *options,
        ]
        self._log = log
        self._numbers = itertools.count()

    def run(
        self,
        source: Path | Iterator[bytes],
        *,
        jobs: int,
        dump_ids: Sequence[int],
        cancel: threading.Event,
    ) -> int:
        """Run it until all is restored; return the bytes that it was given on its standard input.

        :param source: the archive: a folder, a file, or its bytes.
        :param dump_ids: of the entries to restore, in this order.
        :raises ClientProgramError: pg_restore failed.
        :raises Cancelled: told to stop.
        """
        chosen = use_list(self._folder / f"run-{next(self._numbers)}.list", dump_ids)
        arguments = [f"--jobs={jobs}", *self._arguments, chosen]
        last_login = None
        if self._target.password is not None and jobs > 1:
            last_login = LastLogin(dump_ids)
            arguments.append("--verbose")
        errors = ErrorCount()

        def on_line(line: str) -> None:
            if last_login is None or not last_login.takes(line):
                errors.see(line)
                self._log.info("%s", line)

        self._target.renew_password(self._env)
        return pour_into(
            [
                self._tools.path("pg_restore"),
                *arguments,
                *([str(source)] if isinstance(source, Path) else []),
            ],
            env=self._env,
            chunks=None if isinstance(source, Path) else source,
            on_line=on_line,
            is_hopeless=lambda: self._is_tolerant and errors.are_serious,
            check=lambda program: check_outcome(
                program, errors, tolerant=self._is_tolerant, last_login=last_login
            ),
            cancel=cancel,
            log=self._log,
        )


def use_list(file: Path, dump_ids: Iterable[int]) -> str:
    """Write down which entries pg_restore is to take, in this order, and return the option that says so."""
    file.write_text("".join(f"{number};\n" for number in dump_ids))
    return f"--use-list={file}"


class ErrorCount:
    """Counts pg_restore's errors, and those of them that mean nothing.

    What an error quotes (the body of a function, a message that a trigger raises) can hold any text, also that of
    a harmless error. But it comes behind the first line of its own error, in pg_restore's words and the server's:
    as soon as such a line is not one of the harmless, all is lost, whatever follows.

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
    def are_serious(self) -> bool:
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
    def are_none(self) -> bool:
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
    program: ClientProgram, errors: ErrorCount, *, tolerant: bool, last_login: LastLogin | None = None
) -> None:
    """Raise unless pg_restore has ended well, or all its errors mean nothing.

    :param tolerant: whether there may be such errors.
    :param last_login: what has listened to it, if it may fail to log in once more at its end.
    :raises ClientProgramError: it has failed, or is about to.
    """
    if tolerant and errors.are_serious:
        deadline = time.monotonic() + _EXPLAIN_SECONDS
        while program.poll() is None and not errors.are_explained and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        program.end()
        raise ClientProgramError(program.name, 1, program.stderr_tail())
    try:
        program.check()
    except ClientProgramError:
        program.stderr_tail()  # all lines have come
        is_done = last_login is not None and last_login.has_failed and errors.are_none
        if not ((is_done or (tolerant and errors.are_harmless)) and program.poll() == 1):
            raise
