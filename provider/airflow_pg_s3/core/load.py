"""The load: pg_restore at work, fed from S3. What a restore does beside it, it does elsewhere."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.errors import Cancelled, ClientProgramError
from airflow_pg_s3.core.libpq import ConnectionParameters
from airflow_pg_s3.core.manifest import Member
from airflow_pg_s3.core.process import ClientProgram, running
from airflow_pg_s3.core.progress import Log, Progress, human
from airflow_pg_s3.core.served import ServedArchive

_LOOK_SECONDS = 0.01
_FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT = 17
# A newer pg_restore sends this setting; an older server does not know it, and does not need it.
_UNKNOWN_TO_OLDER = "Command was: SET transaction_timeout = 0;"
# --clean drops the key of a partition before the partitioned table's own, which the server refuses. Dropping the
# table does it then; and a table that cannot be dropped is an error in itself.
_KEY_OF_PARTITION = re.compile(r"Command was: ALTER TABLE IF EXISTS ONLY .+ DROP CONSTRAINT IF EXISTS .+;")


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
    argv = [
        tools.path("pg_restore"),
        "--format=directory",
        f"--jobs={jobs}",
        "--no-password",
        f"--dbname={target.dbname_argument()}",
        # What stays after a failed DROP must not get the data a second time.
        *(["--no-data-for-failed-tables"] if tolerant else ["--exit-on-error"]),
        *(["--clean", "--if-exists"] if clean else []),
        *(["--single-transaction"] if in_one_transaction else []),
        *arguments,
        str(archive.folder),
    ]
    env = target.environment(archive.workspace.folder) | archive.workspace.environment
    errors = ErrorCount()

    def on_line(line: str) -> None:
        errors.see(line)
        log.info("%s", line)

    with archive.feeder(large, jobs) as feeder, running(argv, env=env, on_line=on_line) as program:
        total = sum(member.raw_bytes for member in large)
        progress = Progress(
            log.info,
            lambda seconds: (
                f"fed {human(feeder.fed_bytes)} of {human(total)} of the large tables to pg_restore, "
                f"{human(feeder.fed_bytes / max(seconds, 0.001))}/s"
            ),
        )
        # Asked before serving, so that a member is served that was opened just before the end.
        while program.poll() is None and not errors.are_serious:
            feeder.serve()
            if cancel.wait(_LOOK_SECONDS):
                raise Cancelled(f"the restore was stopped; {target.database!r} is incomplete")
            progress.tick()
        check_outcome(program, errors, tolerant=tolerant)
        feeder.finish()
        if large:
            progress.end()


class ErrorCount:
    """Counts pg_restore's errors, and those of them that mean nothing.

    Its parallel workers write to one standard error, whose lines can come out mixed: only the pieces that
    PostgreSQL's logging writes at once are looked for.
    """

    def __init__(self) -> None:
        self.errors = 0
        self.harmless = 0

    @property
    def are_serious(self) -> bool:
        """Whether more than the last error, of which the command may not be known yet, is not harmless."""
        return self.errors > self.harmless + 1

    def see(self, line: str) -> None:
        """Look at a line of standard error."""
        self.errors += line.count("error: ")
        self.harmless += line.count(_UNKNOWN_TO_OLDER) + (_KEY_OF_PARTITION.search(line) is not None)


def check_outcome(program: ClientProgram, errors: ErrorCount, *, tolerant: bool) -> None:
    """Raise unless pg_restore has ended well, or all its errors mean nothing.

    :param tolerant: whether there may be such errors.
    :raises ClientProgramError: it has failed, or is about to.
    """
    if errors.are_serious:
        program.end()
        raise ClientProgramError(program.name, 1, program.stderr_tail())
    try:
        program.check()
    except ClientProgramError:
        if not (tolerant and 0 < errors.errors == errors.harmless and program.poll() == 1):
            raise
