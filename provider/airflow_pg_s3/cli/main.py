"""Runs a command."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TextIO

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.output import Output, give_up
from airflow_pg_s3.cli.parser import build_parser
from airflow_pg_s3.cli.wording import OF_AIRFLOW, in_words_of

if TYPE_CHECKING:
    from airflow_pg_s3.cli.connections import Connections
    from airflow_pg_s3.cli.log import CommandLog

    Connect = Callable[[Namespace, CommandLog], Connections]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name.

    :returns: its exit code; see docs/command-line.md.
    """
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell completes a command
        argcomplete = importlib.import_module("argcomplete")
        argcomplete.autocomplete(parser)
    return run(parser.parse_args(argv), _connect, OF_AIRFLOW, sys.stdout)


def run(arguments: Namespace, connect: Connect, words: Mapping[str, str], results: TextIO) -> int:
    """Run a command that was parsed; see `main`.

    :param connect: makes the command's connections.
    :param words: what core says, and what to say in its place.
    :param results: where results go.
    """
    # As standard error has it: a name that it lacks letters for is no bug.
    if isinstance(results, io.TextIOWrapper):
        results.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments, connect, words, results)
    except KeyboardInterrupt:  # before it has begun
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # who reads has seen enough, as with `| head`
        give_up(results)
        return ExitCode.FAILED


def _connect(arguments: Namespace, log: CommandLog) -> Connections:
    from airflow_pg_s3.cli.connections import CommandLineConnections

    return CommandLineConnections(arguments, log)


def _run(arguments: Namespace, connect: Connect, words: Mapping[str, str], results: TextIO) -> int:
    # Not above: --help and completion are quick without them.
    from airflow_pg_s3.cli.log import open_log
    from airflow_pg_s3.cli.session import Session
    from airflow_pg_s3.cli.stopping import Stopped, end_by, stop_on_signals
    from airflow_pg_s3.core.errors import DataConflict, InputError, PgS3Error

    wording = partial(in_words_of, arguments.command, words=words)
    is_json = arguments.output == "json"
    with (
        open_log(wording, None if is_json else results, quiet=arguments.quiet) as log,
        stop_on_signals(may_undo=arguments.may_undo) as stop,
    ):
        command = importlib.import_module(f"airflow_pg_s3.cli.commands.{arguments.module}")
        try:
            session = Session(
                connections=connect(arguments, log),
                out=Output(results, is_json=is_json),
                wording=wording,
                log=log,
                cancel=stop.cancel,
            )
            code: ExitCode = command.run(arguments, session)
            return code
        except PgS3Error as error:
            log.error("; ".join([str(error), *getattr(error, "__notes__", ())]))
            is_wrong_use = isinstance(error, InputError | DataConflict)
            code = ExitCode.WRONG_USE if is_wrong_use else ExitCode.FAILED
        except Stopped:
            code = ExitCode.FAILED
    if stop.number is not None:
        end_by(stop.number)
    return code
