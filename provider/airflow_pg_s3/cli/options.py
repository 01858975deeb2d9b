"""Options of the command line, each declared once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from airflow_pg_s3.core.reporting import parse_duration

BACKUP_HELP = (
    "URI of the backup: of its manifest, or s3://BUCKET/PREFIX/DATABASE/NAME, where NAME is latest, "
    "latest-verified, a time such as 2026-11-20T03:00 (the newest that began then or before, UTC) or a "
    "unique beginning of an id"
)
POSTGRES_HELP = (
    "as psql takes it: a URI such as postgresql://user@host/database, keywords such as 'service=orders', or a "
    "database's name; what is left out comes from PGHOST, PGUSER … and passwords from PGPASSWORD or ~/.pgpass"
)
ON_S3 = "is on S3"
"""How the message ends if a URI of S3 is in another argument's place."""


class ConnectionOptions:
    """How a command is told where databases, S3 and age identities are; `airflow pg-s3` has options of its own."""

    def add_postgres(self, parser: argparse.ArgumentParser, about: str) -> None:
        """Add a database."""
        parser.add_argument("postgres", type=not_on_s3, metavar="POSTGRES", help=f"{about}, {POSTGRES_HELP}")

    def add_repository(self, parser: argparse.ArgumentParser, about: str = "where backups lie") -> None:
        """Add a repository."""
        parser.add_argument("repository", metavar="REPOSITORY", help=f"{about}, s3://BUCKET/PREFIX")

    def add_server(self, parser: argparse.ArgumentParser) -> None:
        """Add a server for verifications."""
        parser.add_argument(
            "--server",
            metavar="POSTGRES",
            help="server to restore into, as a database of its own that is dropped again, in the same form as for "
            "backup (default: a throwaway server on this machine)",
        )

    def add_identity(self, parser: argparse.ArgumentParser) -> None:
        """Add what opens an encrypted backup."""
        about = "file with age identities that open an encrypted backup"
        add_many(parser, "--identity", "identity", "FILE", about)

    def add_s3(self, parser: argparse.ArgumentParser) -> None:
        """Add how S3 is reached."""
        s3 = parser.add_argument_group(
            "S3", "Credentials come from where boto3 looks: AWS_PROFILE, ~/.aws, a role …"
        )
        s3.add_argument("--profile", metavar="NAME", help="profile of ~/.aws/config")
        s3.add_argument("--region", metavar="NAME", help="region of the bucket")
        s3.add_argument("--endpoint-url", metavar="URL", help="of a store that is not Amazon's")
        s3.add_argument(
            "--s3-extra-args",
            metavar="FILE",
            help='JSON file with arguments for requests that accept them, as {"ServerSideEncryption": "aws:kms"}',
        )

    def add_s3_of_copy(self, parser: argparse.ArgumentParser) -> None:
        """Add how S3 is reached where a copy goes."""
        parser.add_argument(
            "--to-profile", metavar="NAME", help="profile for REPOSITORY (default: that of --profile)"
        )
        parser.add_argument("--to-region", metavar="NAME", help="region of REPOSITORY (default: that of --region)")
        parser.add_argument(
            "--to-endpoint-url", metavar="URL", help="store of REPOSITORY (default: that of --endpoint-url)"
        )
        parser.add_argument(
            "--to-s3-extra-args",
            metavar="FILE",
            help='JSON file with arguments for what is stored, as {"StorageClass": "GLACIER_IR"}',
        )


def not_on_s3(text: str) -> str:
    """Take an argument that stands beside a URI of S3.

    :raises argparse.ArgumentTypeError: it is such a URI itself; the message ends with `ON_S3`.
    """
    if text.lower().startswith("s3://"):
        raise argparse.ArgumentTypeError(f"{text} {ON_S3}")
    return text


def duration(text: str) -> timedelta:
    """Read a duration such as ``26h``.

    :raises argparse.ArgumentTypeError: it is none.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def number(text: str, *, example: str = "7") -> int:
    """Read an integer.

    :raises argparse.ArgumentTypeError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, such as {example}, not {text!r}") from None


def folder(text: str) -> str:
    """Read the name of a folder.

    :raises argparse.ArgumentTypeError: there is none of this name.
    """
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return text


def label(text: str) -> tuple[str, str]:
    """Read a label such as ``release=42``.

    :raises argparse.ArgumentTypeError: it is none.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"must look like NAME=VALUE, not {text!r}")
    return name, value


def add_common(parser: argparse.ArgumentParser, connections: ConnectionOptions, *, has_facts: bool = True) -> None:
    """Add what every command has: how S3 is reached, and what is written.

    :param has_facts: whether results can be JSON.
    """
    connections.add_s3(parser)
    written = parser.add_argument_group("output")
    if has_facts:
        written.add_argument(
            "--output",
            choices=("text", "json"),
            default="text",
            help="results for people (default), or JSON",
        )
    else:
        parser.set_defaults(output="text")
    written.add_argument("-q", "--quiet", action="store_true", help="say nothing but results, warnings and errors")


def add_worker(parser: argparse.ArgumentParser, *, has_programs: bool = True) -> None:
    """Add what concerns this machine.

    :param has_programs: whether client programs are run.
    """
    machine = parser.add_argument_group("this machine")
    machine.add_argument(
        "--spool-dir", metavar="FOLDER", help="folder on a local disk to work in (default: $TMPDIR, or /tmp)"
    )
    if has_programs:
        about = "folder with pg_dump and pg_restore, looked at before PATH and the usual places"
        add_many(machine, "--client-path", "client_path", "FOLDER", about, read=folder)


def add_spool_limit(parser: argparse.ArgumentParser) -> None:
    """Add how much disk a backup may take."""
    parser.add_argument(
        "--spool-limit",
        type=partial(number, example="500000000"),
        default=1 << 30,
        metavar="BYTES",
        help="disk that a backup may take in the spool (default: 1 GiB)",
    )


def add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    """Add how much is done at the same time."""
    parser.add_argument("-j", "--jobs", type=number, default=2, metavar="N", help=f"{what} (default: 2)")


def add_many(
    parser: argparse._ActionsContainer,
    name: str,
    dest: str,
    metavar: str,
    about: str,
    *,
    read: Callable[[str], str] = str,
) -> None:
    """Add an option that may be repeated.

    :param read: reads a value; raises `argparse.ArgumentTypeError`.
    """
    parser.add_argument(
        name, dest=dest, action="append", default=[], type=read, metavar=metavar, help=f"{about}; may be repeated"
    )


def add_pre_restore_sql(parser: argparse._ActionsContainer) -> None:
    """Add what runs first."""
    about = "commands to run before anything is dropped or restored"
    add_many(parser, "--pre-restore-sql", "pre_restore_sql", "SQL", about)


def add_labels(parser: argparse.ArgumentParser, about: str) -> None:
    """Add labels of backups."""
    parser.add_argument(
        "--label",
        dest="labels",
        type=label,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"{about}; may be repeated",
    )
