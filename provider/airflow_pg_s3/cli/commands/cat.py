"""Writes the rows of one table to standard output."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from psycopg import sql

from airflow_pg_s3.cli.csv_text import CsvText
from airflow_pg_s3.cli.exit_code import ExitCode
from airflow_pg_s3.cli.session import Session
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.restore.table_rows import StoredTable, TableRequest, read_table


def run(arguments: Namespace, session: Session) -> ExitCode:
    """Write the rows, as they were dumped or as CSV."""
    is_csv = arguments.format == "csv"
    if arguments.header and not is_csv:
        raise InputError("--header goes with --format csv: COPY text has none")
    identities = session.connections.identities()
    client, _ = session.connections.s3()
    request = TableRequest(
        backup=resolve(client, arguments.backup, session.log),
        table=arguments.table,
        identities=identities,
        spool_dir=arguments.spool_dir,
    )
    out = session.out.stream.buffer

    def begin(found: StoredTable) -> Callable[[bytes], object]:
        session.log.info("to load it in psql: %s", _load_command(found, arguments))
        csv = CsvText(out.write, [name.encode(found.codec) for name in found.table.columns])
        if arguments.header:
            csv.write_header()
        return csv.write if is_csv else out.write

    read_table(request, client, begin, cancel=session.cancel)
    out.flush()
    return ExitCode.DONE


def _load_command(found: StoredTable, arguments: Namespace) -> str:
    table = sql.Identifier(found.table.schema_name, found.table.name).as_string()
    columns = ", ".join(sql.Identifier(name).as_string() for name in found.table.columns)
    header = ", HEADER" if arguments.header else ""
    options = f" WITH (FORMAT csv{header})" if arguments.format == "csv" else ""
    return f"\\copy {table} ({columns}) FROM 'FILE'{options}"
