"""The load: pg_restore at work, fed from S3. What a restore does beside it, it does elsewhere."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.errors import Cancelled, ClientProgramError
from airflow_pg_s3.core.largest_first import LargestFirst
from airflow_pg_s3.core.last_login import LastLogin
from airflow_pg_s3.core.libpq import ConnectionParameters, ensure_service_file
from airflow_pg_s3.core.manifest import Member
from airflow_pg_s3.core.passes import Pass, passes_of
from airflow_pg_s3.core.process import ClientProgram, running
from airflow_pg_s3.core.progress import Log, Progress, human
from airflow_pg_s3.core.selection import list_entries
from airflow_pg_s3.core.served import ServedArchive

_LOOK_SECONDS = 0.01
_FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT = 17
# How long pg_restore is given to say which command failed, before it is ended.
_EXPLAIN_SECONDS = 1.0
_FAILED_QUERY = "could not execute query: "
# A newer pg_restore sends this setting; an older server does not know it, and does not need it.
_UNKNOWN_SETTING = _FAILED_QUERY + 'ERROR:  unrecognized configuration parameter "transaction_timeout"'
_SET_COMMAND = "Command was: SET transaction_timeout = 0;"
# --clean drops the key of a partition before the partitioned table's own, which the server refuses. Dropping the
# table does it then; and a table that cannot be dropped is an error in itself.
_KEY_ERROR = re.compile(
    r'pg_restore: error: could not execute query: ERROR:  cannot drop inherited constraint ".+" of relation ".+"'
)
_KEY_COMMAND = re.compile(r"Command was: ALTER TABLE IF EXISTS ONLY .+ DROP CONSTRAINT IF EXISTS .+;")


def knows_less(tools: ClientTools, target_version: int) -> bool:
    """Whether the target does not know a setting that pg_restore sends."""
    return tools.major >= _FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT > target_version // 10000


def load(
    archive: ServedArchive,
    members: Sequence[Member],
    target: ConnectionParameters,
    *,
    target_version: int,
    tools: ClientTools,
    jobs: int,
    clean: bool,
    in_one_transaction: bool,
    arguments: Sequence[str],
    cancel: threading.Event,
    log: Log,
) -> None:
    """Run pg_restore on an archive until all of it is in the database.

    :param members: those that pg_restore will read.
    :param clean: first drop what the archive holds.
    :param in_one_transaction: all or nothing; for one job only.
    :param arguments: further ones for pg_restore.
    :raises ClientProgramError: pg_restore failed.
    :raises IntegrityError: a member is not what was backed up; pg_restore has not seen its end.
    :raises Cancelled: told to stop.
    """
    archive.fetch({member.name for member in members if member.packed})
    large = [member for member in members if not member.packed]
    tolerant = not in_one_transaction and (clean or knows_less(tools, target_version))
    passes = passes_of(
        archive.folder,
        tools=tools,
        jobs=jobs,
        clean=clean,
        arguments=arguments,
        codec=archive.manifest.server.codec,
        folder=archive.workspace.folder,
    )
    for one in passes:
        _run(
            one,
            archive,
            large if one is passes[0] else [],
            target,
            tools=tools,
            clean=clean,
            in_one_transaction=in_one_transaction,
            tolerant=tolerant,
            cancel=cancel,
            log=log,
        )


def _run(
    one: Pass,
    archive: ServedArchive,
    large: Sequence[Member],
    target: ConnectionParameters,
    *,
    tools: ClientTools,
    clean: bool,
    in_one_transaction: bool,
    tolerant: bool,
    cancel: threading.Event,
    log: Log,
) -> None:
    last_login = last_login_of(one, archive.folder, target, tools=tools, codec=archive.manifest.server.codec)
    argv = [
        tools.path("pg_restore"),
        "--format=directory",
        f"--jobs={one.jobs}",
        "--no-password",
        f"--dbname={target.dbname_argument()}",
        # What stays after a failed DROP must not get the data a second time.
        *(["--no-data-for-failed-tables"] if tolerant else ["--exit-on-error"]),
        *(["--clean", "--if-exists"] if clean else []),
        *(["--single-transaction"] if in_one_transaction else []),
        *(["--verbose"] if last_login is not None else []),
        *one.arguments,
        str(archive.folder),
    ]
    env = target.environment(archive.workspace.folder) | archive.workspace.environment
    errors = ErrorCount()

    def on_line(line: str) -> None:
        if last_login is None or not last_login.takes(line):
            errors.see(line)
            log.info("%s", line)

    with ExitStack() as stack:
        feeder = stack.enter_context(archive.feeder(large, one.jobs))
        order = None
        if large and one.jobs > 1 and (file := ensure_service_file(env, archive.workspace.folder)) is not None:
            order = stack.enter_context(LargestFirst(archive.folder, large, file))
        program = stack.enter_context(running(argv, env=env, on_line=on_line))
        total = sum(member.raw_bytes for member in large)
        progress = Progress(
            log.info,
            lambda seconds: (
                f"fed {human(feeder.fed_bytes)} of {human(total)} of the large tables to pg_restore, "
                f"{human(feeder.fed_bytes / max(seconds, 0.001))}/s"
            ),
        )
        # Asked before serving, so that a member is served that was opened just before the end.
        while program.poll() is None and not (tolerant and errors.are_serious):
            if order is None or order.look():
                feeder.serve()
            if cancel.wait(_LOOK_SECONDS):
                break
            progress.tick()
        # Asked first: Airflow ends the whole process group, and pg_restore may have heeded it before us.
        if cancel.is_set():
            raise Cancelled(f"the restore was stopped; {target.database!r} is incomplete")
        if order is not None:
            order.look()  # if it came too late, pg_restore's errors are our own
        check_outcome(program, errors, tolerant=tolerant, last_login=last_login)
        feeder.finish()
        if large:
            progress.end()


def last_login_of(
    one: Pass, archive: Path, target: ConnectionParameters, *, tools: ClientTools, codec: str
) -> LastLogin | None:
    """What must listen to a run of pg_restore on a file or folder, if its password may expire before its end."""
    if target.password is None or one.jobs == 1:
        return None
    entries = list_entries(archive, tools=tools, arguments=one.arguments, codec=codec)
    return LastLogin(entry.dump_id for entry in entries)


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
        self._undropped_keys = 0
        self._expects_command = False
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
        harmless = min(self._unknown_settings, self._set_commands) + self._undropped_keys
        return not self._is_serious and not self._expects_command and 0 < self._errors == harmless

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
        if self._expects_command:
            # Keys are dropped before there are workers: the lines are whole, and follow each other.
            self._expects_command = False
            self._is_serious = _KEY_COMMAND.fullmatch(line) is None
            self._undropped_keys += 1
        elif _KEY_ERROR.fullmatch(line):
            self._expects_command = True
        else:
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
