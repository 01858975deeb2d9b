"""Runs of pg_restore into one database: its arguments, and the errors to ignore."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from airflow_pg_s3.core.postgres.archive.use_list import use_list
from airflow_pg_s3.core.postgres.client_program import ClientProgram
from airflow_pg_s3.core.postgres.client_versions import rejects_transaction_timeout
from airflow_pg_s3.core.postgres.stdin_feeder import run_with_stdin
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.load.error_parser import PgRestoreErrors, check_outcome
from airflow_pg_s3.core.restore.load.last_login import LastLogin
from airflow_pg_s3.core.restore.opened_archive import OpenedArchive
from airflow_pg_s3.core.restore.target import Target


class PgRestore:
    """pg_restore, with the arguments that all its runs in one restore share.

    The constructor connects, to learn the language of the server's messages.

    :param archive_format: ``directory``, ``custom`` or ``tar``.
    :param options: further options; nothing secret.
    :raises InputError: as in `ConnectionParameters.environment`.
    """

    def __init__(
        self,
        archive: OpenedArchive,
        target: Target,
        context: RestoreContext,
        *,
        archive_format: str,
        options: Sequence[str],
    ) -> None:
        self._tools = archive.tools
        self._target = target.params
        self._folder = context.workspace.folder
        self._env = target.params.environment(self._folder, lc_monetary=archive.lc_monetary)
        self._env |= context.workspace.environment
        self._is_tolerant = rejects_transaction_timeout(archive.tools, target.version)
        self._arguments = [
            f"--format={archive_format}",
            "--no-password",
            f"--dbname={target.params.dbname_argument()}",
            # A table that existed before must not get its data a second time.
            *(["--no-data-for-failed-tables"] if self._is_tolerant else ["--exit-on-error"]),
            *options,
        ]
        self._log = context.log
        self._numbers = itertools.count()

    def run(
        self,
        source: Path | Iterator[bytes],
        *,
        jobs: int,
        dump_ids: Sequence[int],
        cancel: threading.Event,
    ) -> int:
        """Restore some entries; return the number of bytes that pg_restore got on its standard input.

        :param source: the archive: a folder, a file, or its bytes.
        :param dump_ids: dump ids of the entries to restore, in this order.
        :raises ClientProgramError: pg_restore failed.
        :raises Cancelled: `cancel` was set.
        """
        chosen = use_list(self._folder / f"run-{next(self._numbers)}.list", dump_ids)
        arguments = [f"--jobs={jobs}", *self._arguments, chosen]
        last_login = None
        if self._target.password is not None and jobs > 1:
            last_login = LastLogin(dump_ids)
            arguments.append("--verbose")
        self._target.renew_password(self._env)
        return run_with_stdin(
            [
                self._tools.path("pg_restore"),
                *arguments,
                *([str(source)] if isinstance(source, Path) else []),
            ],
            env=self._env,
            chunks=None if isinstance(source, Path) else source,
            judge=_Judge(self._log, last_login, is_tolerant=self._is_tolerant),
            cancel=cancel,
            log=self._log,
        )


class _Judge:
    def __init__(self, log: Log, last_login: LastLogin | None, *, is_tolerant: bool) -> None:
        self._log = log
        self._last_login = last_login
        self._is_tolerant = is_tolerant
        self._errors = PgRestoreErrors()

    def see(self, line: str) -> None:
        if self._last_login is None or not self._last_login.takes(line):
            self._errors.see(line)
            self._log.info("%s", line)

    @property
    def is_hopeless(self) -> bool:
        return self._is_tolerant and self._errors.is_fatal

    def check(self, program: ClientProgram) -> None:
        check_outcome(program, self._errors, tolerant=self._is_tolerant, last_login=self._last_login)
