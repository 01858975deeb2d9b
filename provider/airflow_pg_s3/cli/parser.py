"""The commands, and what each takes."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Container, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

from airflow_pg_s3 import __version__
from airflow_pg_s3.cli import options
from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.options import ConnectionOptions
from airflow_pg_s3.core.documents import document
from airflow_pg_s3.core.postgres.redaction import redacted

PROGRAM = "pg-s3"
COMMAND_LINE = ConnectionOptions()
_NO_VALUE = re.compile(r"argument (?:-\w/)?(--[\w-]+): expected one argument")
# Lines as they are: a path must not be broken.
_EPILOG = """\
exit codes:
  0  done
  1  failed
  2  wrong use: nothing was touched, and trying again changes nothing
  3  could not verify, or the newest backup is too old

documentation:
  {path}"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and repeat no password."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        self.exit(ExitCode.WRONG_USE, f"error: {redacted(message)}; see {self.prog} --help\n")


class _CommandParser(Parser):
    """A command's parser, which refuses itself what it does not know, so that its own help is named."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command's arguments."""
        self._given = list(args)
        arguments, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        return arguments, unknown

    def _hint(self, unknown: Sequence[str]) -> str:
        options = self._option_string_actions
        # pg_restore has --clean, which is --if-exists clean here.
        meant = {f"--{value}": f"{name} {value}" for name, one in options.items() for value in one.choices or ()}
        meant |= {name: name for name in options}
        near = [difflib.get_close_matches(word.partition("=")[0], meant, n=1, cutoff=0.8) for word in unknown]
        words = " and ".join(meant[word] for words in near for word in words)
        return f" (did you mean {words}?)" if words else ""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with what to write if a value begins with a dash, or arguments are swapped."""
        if message.endswith(options.ON_S3):
            order = " ".join(str(one.metavar) for one in self._get_positional_actions())
            message += f": the arguments are the other way round, or one is missing: write {self.prog} {order}"
        if (match := _NO_VALUE.fullmatch(message)) is not None:
            option = match[1]
            values = [value for name, value in pairwise(self._given) if name == option and value.startswith("-")]
            if values:
                message += f" (if {values[0]} is its value, write {option}={values[0]})"
        super().error(message)


def build_parser(
    prog: str = PROGRAM, connections: ConnectionOptions = COMMAND_LINE, *, without: Container[str] = ()
) -> Parser:
    """Declare all commands. What is parsed also has the command's `module` and `may_undo`; see `_Command`.

    :param without: names of commands to leave out.
    """
    parser = Parser(
        prog=prog,
        description="Back PostgreSQL up to S3, list, restore and verify backups.",
        epilog=_EPILOG.format(path=document("command-line.md")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pg-s3 {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser
    )
    for one in (one for one in _COMMANDS if one.name not in without):
        sentence = f"{one.summary[0].upper()}{one.summary[1:]}."
        command = commands.add_parser(one.name, help=one.summary, description=sentence, allow_abbrev=False)
        command.set_defaults(module=one.module, may_undo=one.may_undo, command=command)
        one.declare(command, connections)
    return parser


class _Command(NamedTuple):
    """A command.

    :param module: of `commands`, which runs it.
    :param may_undo: whether it has something to undo when it is stopped.
    """

    name: str
    module: str
    summary: str
    declare: Callable[[argparse.ArgumentParser, ConnectionOptions], None]
    may_undo: bool


def _backup(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    connections.add_postgres(parser, "the database")
    connections.add_repository(parser)
    options.add_jobs(parser, "tables dumped at the same time")
    parser.add_argument(
        "--compression-level",
        type=options.number,
        default=1,
        metavar="N",
        help="of zstd, 1 (fast) to 19 (small) (default: 1)",
    )
    options.add_many(
        parser,
        "--pg-dump-option",
        "pg_dump_options",
        "OPTION",
        "further option of pg_dump, such as --pg-dump-option=--exclude-table-data=log",
    )
    options.add_many(parser, "--age-recipient", "age_recipients", "RECIPIENT", "encrypt for this one (age1…)")
    options.add_labels(parser, "kept with the backup, for finding it again")
    parser.add_argument(
        "--include-globals", action="store_true", help="store roles and tablespaces too, without passwords"
    )
    parser.add_argument(
        "--full", action="store_true", help="store everything anew, and refer to no data of earlier backups"
    )
    parser.add_argument(
        "--full-every",
        type=options.duration,
        default=options.duration("30d"),
        metavar="DURATION",
        help="do so when data that would be referred to is older than this (default: 30d)",
    )
    options.add_spool_limit(parser)
    options.add_worker(parser)
    options.add_common(parser, connections)


def _list(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    connections.add_repository(parser)
    parser.add_argument("--database", metavar="NAME", help="only backups of this database")
    parser.add_argument("--before", metavar="TIME", help="only backups made before this time (ISO 8601, UTC)")
    options.add_labels(parser, "only backups that carry this label")
    parser.add_argument(
        "--verified-only", action="store_true", help="only backups that were restored and compared without fault"
    )
    parser.add_argument("--limit", type=options.number, metavar="N", help="the newest so many")
    parser.add_argument(
        "--pattern", metavar="GLOB", help="list other tools' archives instead, such as --pattern '*.tar.gz'"
    )
    parser.add_argument(
        "--max-age",
        type=options.duration,
        metavar="DURATION",
        help="exit with 3 unless each database has a backup younger than this, such as 26h (with --verified-only: "
        "a verified one)",
    )
    options.add_common(parser, connections)


def _show(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    parser.add_argument("backup", metavar="BACKUP", help=options.BACKUP_HELP)
    options.add_common(parser, connections)


def _restore(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    parser.add_argument(
        "backup", metavar="BACKUP", help=f"{options.BACKUP_HELP}; or the URI of another tool's archive"
    )
    connections.add_postgres(parser, "the database to restore into")
    options.add_jobs(parser, "tables restored at the same time")
    _add_what(parser)
    _add_existing(parser)
    _add_ownership(parser)
    _add_sql(parser)
    options.add_many(
        parser,
        "--pg-restore-option",
        "pg_restore_options",
        "OPTION",
        "further option of pg_restore, other than those that select objects",
    )
    connections.add_identity(parser)
    parser.add_argument(
        "--thaw",
        choices=("Standard", "Bulk", "Expedited"),
        help="restore tier of S3: request objects that are in an archive storage class, and wait for them",
    )
    parser.add_argument(
        "--thaw-days",
        type=options.number,
        default=3,
        metavar="N",
        help="days for which S3 keeps what it has restored from there (default: 3)",
    )
    parser.add_argument(
        "--allow-unsafe-psql",
        action="store_true",
        help="replay a plain dump also with a psql that the dump can make run commands (CVE-2025-8714)",
    )
    options.add_worker(parser)
    options.add_common(parser, connections)


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to restore (default: all)")
    many = options.add_many
    many(what, "--table", "tables", "PATTERN", "only this table, with its indexes, keys …, such as public.orders")
    many(what, "--schema", "schemas", "PATTERN", "only this schema, with all that it holds, such as 'audit*'")
    many(what, "--exclude-table", "exclude_tables", "PATTERN", "all but this table and what depends on it")
    what.add_argument("--schema-only", action="store_true", help="definitions without data")
    what.add_argument("--data-only", action="store_true", help="data into tables that are there and empty")


def _add_existing(parser: argparse.ArgumentParser) -> None:
    existing = parser.add_argument_group("what is there already")
    existing.add_argument(
        "--if-exists",
        choices=("fail", "clean", "replace"),
        default="fail",
        help="fail: refuse a database that holds anything (default); clean: first drop what the backup also "
        "holds; replace: restore beside the database, then swap their names, which cuts its connections",
    )
    existing.add_argument(
        "--no-keep-previous",
        dest="keep_previous",
        action="store_false",
        help="with replace: drop the old database, rather than keep it as NAME__before_…",
    )
    existing.add_argument(
        "--allow-partial",
        action="store_true",
        help="with replace and clean: accept that the database loses what was left out of the backup",
    )
    existing.add_argument(
        "--no-single-transaction",
        dest="single_transaction",
        action="store_false",
        help="with clean and --data-only: use all jobs; a failure leaves the database neither old nor new",
    )
    existing.add_argument(
        "--no-create-database",
        dest="create_database",
        action="store_false",
        help="fail if the database does not exist, rather than create it",
    )


def _add_ownership(parser: argparse.ArgumentParser) -> None:
    owners = parser.add_argument_group("owners and rights")
    owners.add_argument("--no-owner", action="store_true", help="let everything belong to the restoring user")
    owners.add_argument("--no-privileges", action="store_true", help="leave out GRANT and REVOKE")
    owners.add_argument(
        "--restore-globals",
        action="store_true",
        help="first create the roles and tablespaces that the backup holds and the server has not",
    )
    owners.add_argument(
        "--managed-service",
        action="store_true",
        help="leave out, with a warning, what a user who is no superuser may not create (RDS, Cloud SQL, Azure)",
    )


def _add_sql(parser: argparse.ArgumentParser) -> None:
    sql = parser.add_argument_group("your own SQL, in one transaction each")
    options.add_pre_restore_sql(sql)
    many = options.add_many
    many(sql, "--pre-data-sql", "pre_data_sql", "SQL", "commands to run between definitions and rows")
    many(
        sql,
        "--post-restore-sql",
        "post_restore_sql",
        "SQL",
        "commands to run in the restored database; with replace, before the swap",
    )


def _verify(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    parser.add_argument("backup", metavar="BACKUP", help=options.BACKUP_HELP)
    connections.add_server(parser)
    parser.add_argument(
        "--level",
        choices=("restore", "checksum"),
        default="restore",
        help="restore and compare everything (default), or only read and decode every object",
    )
    options.add_jobs(parser, "tables restored and compared, or objects read, at the same time")
    options.add_many(
        parser, "--check", "checks", "SQL", "query for the restored database that must return one value, true"
    )
    options.add_pre_restore_sql(parser)
    parser.add_argument(
        "--locate-differences", action="store_true", help="name the first row that differs of each table that does"
    )
    connections.add_identity(parser)
    options.add_worker(parser)
    options.add_common(parser, connections)


def _prune(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    connections.add_repository(parser)
    parser.add_argument(
        "--database", metavar="NAME", help="only this database's backups (default: all, each by itself)"
    )
    parser.add_argument(
        "--keep-last", type=options.number, default=0, metavar="N", help="keep the newest so many backups"
    )
    for span in ("hour", "day", "week", "month", "year"):
        rule = "daily" if span == "day" else f"{span}ly"
        parser.add_argument(
            f"--keep-{rule}",
            type=options.number,
            default=0,
            metavar="N",
            help=f"keep one for each of so many {span}s",
        )
    parser.add_argument(
        "--timezone",
        default="UTC",
        metavar="NAME",
        help="IANA name of the zone in which these begin (default: UTC)",
    )
    parser.add_argument(
        "--orphan-age",
        type=options.duration,
        default=options.duration("48h"),
        metavar="DURATION",
        help="what has no manifest goes when nothing was written to it for so long (default: 48h)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    options.add_common(parser, connections)


def _download(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    parser.add_argument("backup", metavar="BACKUP", help=options.BACKUP_HELP)
    parser.add_argument(
        "folder", type=options.not_on_s3, metavar="FOLDER", help="a folder that does not exist yet"
    )
    options.add_jobs(parser, "files written at the same time")
    connections.add_identity(parser)
    options.add_common(parser, connections)


def _copy(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    parser.add_argument("backup", metavar="BACKUP", help=options.BACKUP_HELP)
    connections.add_repository(parser, "where the copy goes")
    connections.add_s3_of_copy(parser)
    options.add_common(parser, connections)


def _cat(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    parser.add_argument("backup", metavar="BACKUP", help=options.BACKUP_HELP)
    parser.add_argument(
        "table", type=options.not_on_s3, metavar="TABLE", help="such as public.orders; without a schema, public's"
    )
    parser.add_argument(
        "--format", choices=("copy", "csv"), default="copy", help="COPY text, as it was dumped (default), or CSV"
    )
    parser.add_argument("--header", action="store_true", help="with csv: first the names of the columns")
    connections.add_identity(parser)
    options.add_worker(parser, has_programs=False)
    options.add_common(parser, connections, has_facts=False)


def _doctor(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    connections.add_postgres(parser, "the database")
    connections.add_repository(parser)
    options.add_jobs(parser, "of the backup to come")
    options.add_spool_limit(parser)
    options.add_worker(parser)
    options.add_common(parser, connections)


def _completion(parser: argparse.ArgumentParser, connections: ConnectionOptions) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    parser.set_defaults(output="text", quiet=False)


_COMMANDS = (
    _Command("doctor", "doctor", "say what would fail in a backup, and what to do", _doctor, may_undo=True),
    _Command("backup", "backup", "back a database up", _backup, may_undo=True),
    _Command("list", "list_backups", "list backups, newest first", _list, may_undo=False),
    _Command("show", "show", "show what a backup holds, and whether it is verified", _show, may_undo=False),
    _Command("verify", "verify", "prove that a backup restores", _verify, may_undo=True),
    _Command("restore", "restore", "restore a backup into a database", _restore, may_undo=True),
    _Command("cat", "cat", "write the rows of one table to standard output", _cat, may_undo=False),
    _Command("download", "download", "download a backup as a folder for pg_restore", _download, may_undo=True),
    _Command("copy", "copy", "copy a backup into another repository", _copy, may_undo=False),
    _Command("prune", "prune", "delete the backups that no rule keeps", _prune, may_undo=True),
    _Command("completion", "completion", "write what makes a shell complete pg-s3", _completion, may_undo=False),
)
