"""Writes what makes a shell complete commands and options."""

from __future__ import annotations

from argparse import Namespace

from argcomplete.shell_integration import shellcode

from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Write the shell's code."""
    session.out.stream.write(shellcode(["pg-s3"], shell=arguments.shell))
    return ExitCode.DONE
