"""Runs of pg_restore into one database: what it is called with, and which of its errors mean nothing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from airflow_pg_s3.core.postgres.archive.use_list import use_list
from airflow_pg_s3.core.postgres.client_tools import ClientTools, rejects_transaction_timeout
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.postgres.stdin_feeder import run_with_stdin
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.restore.load.error_parser import PgRestoreErrors, check_outcome
from airflow_pg_s3.core.restore.load.last_login import LastLogin
from airflow_pg_s3.core.workspace.workspace import Workspace


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
        self._is_tolerant = rejects_transaction_timeout(tools, target_version)
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
        errors = PgRestoreErrors()

        def on_line(line: str) -> None:
            if last_login is None or not last_login.takes(line):
                errors.see(line)
                self._log.info("%s", line)

        self._target.renew_password(self._env)
        return run_with_stdin(
            [
                self._tools.path("pg_restore"),
                *arguments,
                *([str(source)] if isinstance(source, Path) else []),
            ],
            env=self._env,
            chunks=None if isinstance(source, Path) else source,
            on_line=on_line,
            is_hopeless=lambda: self._is_tolerant and errors.is_fatal,
            check=lambda program: check_outcome(
                program, errors, tolerant=self._is_tolerant, last_login=last_login
            ),
            cancel=cancel,
            log=self._log,
        )
