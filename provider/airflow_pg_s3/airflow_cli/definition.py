"""The command for Airflow's parser. Every ``airflow`` command imports this module: it imports nothing of ours."""

from __future__ import annotations

import argparse

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, lazy_load_command


def get_commands() -> list[CLICommand]:
    """Return ``airflow pg-s3``, which parses its own arguments."""
    arguments = Arg(  # type: ignore[no-untyped-call]
        ("arguments",), metavar="COMMAND ...", nargs=argparse.REMAINDER, help="and its arguments"
    )
    return [
        ActionCommand(
            name="pg-s3",
            help="Back PostgreSQL up to S3, list, restore and verify backups",
            description="Back PostgreSQL up to S3, list, restore and verify backups, with Airflow's connections.",
            epilog="Commands: doctor, backup, list, show, verify, restore, cat, download, prune; each has --help.",
            func=lazy_load_command("airflow_pg_s3.airflow_cli.command.run"),
            args=(arguments,),
        )
    ]
