"""Writes the rows of one table to standard output."""

from __future__ import annotations

from argparse import Namespace

from psycopg import sql

from airflow_pg_s3.cli.csv_text import CsvText
from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.repository.repository import read_manifest, read_members
from airflow_pg_s3.core.restore.table_rows import StoredTable, find_table, read_rows
from airflow_pg_s3.core.s3.requests import parse_uri


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Write the rows, as they were dumped or as CSV."""
    is_csv = arguments.format == "csv"
    if arguments.header and not is_csv:
        raise InputError("--header goes with --format csv: COPY text has none")
    identities = session.connections.identities()
    client, _ = session.connections.s3()
    uri = resolve(client, arguments.backup, session.log)
    stored = read_manifest(client, uri)
    bucket, _ = parse_uri(uri, parameter="backup")
    found = find_table(stored.manifest, read_members(client, bucket, stored), arguments.table)
    session.log.info("to load it in psql: %s", _load_command(found, arguments))
    out = session.out.stream.buffer
    csv = CsvText(out.write, [name.encode(found.codec) for name in found.table.columns])
    if arguments.header:
        csv.write_header()
    read_rows(
        stored,
        client,
        uri,
        found,
        csv.write if is_csv else out.write,
        identities=identities,
        spool_dir=arguments.spool_dir,
        cancel=session.cancel,
    )
    out.flush()
    return ExitCode.DONE


def _load_command(found: StoredTable, arguments: Namespace) -> str:
    table = sql.Identifier(found.table.schema_name, found.table.name).as_string()
    columns = ", ".join(sql.Identifier(name).as_string() for name in found.table.columns)
    header = ", HEADER" if arguments.header else ""
    options = f" WITH (FORMAT csv{header})" if arguments.format == "csv" else ""
    return f"\\copy {table} ({columns}) FROM 'FILE'{options}"
