"""Commands of ``pg-s3`` with Airflow's connections."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from airflow_pg_s3.cli.main import run as run_command
from airflow_pg_s3.cli.options import ConnectionOptions
from airflow_pg_s3.cli.parser import build_parser
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.hooks import connections
from airflow_pg_s3.hooks.repositories import DEFAULT_AWS_CONN_ID, find_repository

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROGRAM = "airflow pg-s3"
# What core and hooks say; what the command says in its place.
WORDS = {
    "give aws_conn_id=None": 'give --aws-conn-id ""',
    "postgres_conn_id": "--postgres-conn-id",
    "age_identity_conn_id": "--age-identity-conn-id",
    "PgS3RestoreOperator": f"{PROGRAM} restore",
    "PgS3BackupOperator": f"{PROGRAM} backup",
    "made without include_globals=True": "made without --include-globals",
    "on this worker": "on this machine",
    "as this one stands in the DAG": "as this one stands in the arguments",
}


def run(given: Namespace) -> None:
    """Run the command that ``airflow pg-s3`` was given; exit with its code."""
    # As `airflow connections` does: connections are read from the metadata database as well.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    parser = build_parser(PROGRAM, AirflowOptions(), without=("completion",))
    arguments = parser.parse_args(given.arguments)
    with _results_alone() as results:
        code = run_command(arguments, AirflowConnections, WORDS, results)
    sys.exit(code)


@contextlib.contextmanager
def _results_alone() -> Iterator[TextIO]:
    """Context manager: yield standard output for results; what Airflow logs there goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as results:
        os.dup2(2, 1)
        try:
            yield results
        finally:
            sys.stdout.flush()
            os.dup2(results.fileno(), 1)


class AirflowOptions(ConnectionOptions):
    """Options that name Airflow's connections."""

    def add_postgres(self, parser: argparse.ArgumentParser, about: str) -> None:
        """Add a Postgres connection, and the database."""
        parser.add_argument(
            "--postgres-conn-id",
            dest="postgres",
            default="postgres_default",
            metavar="ID",
            help="Postgres connection (default: postgres_default)",
        )
        parser.add_argument("--database", metavar="NAME", help=f"{about} (default: the connection's own)")

    def add_repository(self, parser: argparse.ArgumentParser, about: str = "where backups lie") -> None:
        """Add a repository, which may be a name."""
        parser.add_argument(
            "repository",
            metavar="REPOSITORY",
            help=f"{about}, s3://BUCKET/PREFIX, or a name in the option [pg_s3] repositories",
        )

    def add_server(self, parser: argparse.ArgumentParser) -> None:
        """Add the Postgres connection of a server for verifications."""
        parser.add_argument(
            "--postgres-conn-id",
            dest="server",
            metavar="ID",
            help="Postgres connection of a server to restore into, as a database of its own that is dropped again "
            "(default: a throwaway server on this machine)",
        )

    def add_identity(self, parser: argparse.ArgumentParser) -> None:
        """Add the connection whose password opens an encrypted backup."""
        parser.add_argument(
            "--age-identity-conn-id",
            metavar="ID",
            help="connection whose password is the age identity of an encrypted backup",
        )

    def add_s3(self, parser: argparse.ArgumentParser) -> None:
        """Add the AWS connection."""
        parser.add_argument_group("S3").add_argument(
            "--aws-conn-id",
            default=DEFAULT_AWS_CONN_ID,
            metavar="ID",
            help='AWS connection; "" for the machine\'s own credentials (default: that of a named repository, or '
            "aws_default)",
        )

    def add_s3_of_copy(self, parser: argparse.ArgumentParser) -> None:
        """Add the AWS connection for where a copy goes."""
        parser.add_argument(
            "--to-aws-conn-id",
            metavar="ID",
            help="AWS connection for REPOSITORY (default: that of a named repository, or of --aws-conn-id)",
        )


class AirflowConnections:
    """Connections by their ids in Airflow.

    A repository that is given by its name is replaced by its URI in the arguments.

    :raises InputError: there is no repository of this name.
    """

    def __init__(self, arguments: Namespace, log: Log) -> None:
        self._arguments = arguments
        self._log = log
        self._aws_conn_id: str | None = arguments.aws_conn_id
        self._to_aws_conn_id: str | None = getattr(arguments, "to_aws_conn_id", None)
        if getattr(arguments, "repository", "s3://").startswith("s3://"):
            return
        found = find_repository(arguments.repository)
        arguments.repository = found.uri
        if hasattr(arguments, "to_aws_conn_id"):
            self._to_aws_conn_id = self._to_aws_conn_id or found.aws_conn_id or ""
        elif self._aws_conn_id == DEFAULT_AWS_CONN_ID:
            self._aws_conn_id = found.aws_conn_id

    def postgres(self, name: str) -> tuple[ConnectionParameters, bool]:
        """Return the parameters of a connection; see `connections.postgres_parameters`."""
        database = getattr(self._arguments, "database", None)
        return connections.postgres_parameters(name, database), database is not None

    def s3(self) -> tuple[S3Client, dict[str, Any]]:
        """Return a client, and the extra arguments of the connection; see `connections.s3_client`."""
        return connections.s3_client(self._aws_conn_id or None)

    def s3_of_copy(self) -> tuple[S3Client, dict[str, Any]]:
        """Return the same for where a copy goes."""
        conn_id = self._aws_conn_id if self._to_aws_conn_id is None else self._to_aws_conn_id
        return connections.s3_client(conn_id or None)

    def identities(self) -> list[str]:
        """Return the age identities of the connection."""
        return connections.age_identities(self._arguments.age_identity_conn_id)

    @property
    def client_path(self) -> Sequence[str]:
        """The folders named, and those of the option ``[pg_s3] client_path``."""
        return [*self._arguments.client_path, *connections.client_path(self._log)]
