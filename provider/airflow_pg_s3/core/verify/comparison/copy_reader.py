"""Reads tables with COPY as pg_dump does, so that the same rows are the same bytes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from airflow_pg_s3.core.errors import Cancelled, ClientProgramError, PgS3Error
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, settings_for_values, without_limits
from airflow_pg_s3.core.postgres.heartbeat import is_stale
from airflow_pg_s3.core.postgres.redaction import redacted
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.workspace.pipes import enlarge, read_all

_BLOCK_BYTES = 1 << 18
# psql passes on 1 MiB at a time, psycopg one row: 300 MB/s against 50 to 200. But in the time that psql takes to
# start and connect, psycopg reads this much.
_LARGE_BYTES = 4 << 20
# Linux allows arguments of up to 128 KiB. The COPY of a table with 1,600 columns of long names can be longer.
_LONGEST_ARGUMENT = 100_000
_CANCEL_SECONDS = 5.0
# Settings on which the text of values depends. pg_dump sets the first six; docs/format.md lists all that matter.
_SETTINGS = {
    "datestyle": "ISO",
    "extra_float_digits": "3",
    "synchronize_seqscans": "off",
    "search_path": "",
    "row_security": "off",
    "timezone": "UTC",
    "bytea_output": "hex",
    # Parallel workers return the rows of a query in any order.
    "max_parallel_workers_per_gather": "0",
    "client_min_messages": "error",
}
_PSQL_ERROR = re.compile(r"^\S+: +([0-9A-Z]{5}): (.*)", re.MULTILINE)
# Invalid value, undefined table, undefined column, wrong object type. Other errors prove nothing about the data
# that was restored.
_OF_THE_DATA = ("22", "42P01", "42703", "42809")


class UnreadableError(PgS3Error):
    """The server cannot read a table, a column or a value that the backup holds."""


class CopyReader:
    """One worker's access to the restored database, by one thread; only `abort` may come from another.

    :param manifest: the backup's manifest, for the encoding and the options of the dump.
    :param env: environment for psql, with what it needs to connect.
    """

    def __init__(
        self, manifest: Manifest, target: ConnectionParameters, *, tools: ClientTools, env: Mapping[str, str]
    ) -> None:
        self._env = dict(env)
        self._target = target
        self._argv = [tools.path("psql"), "-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", "--no-password"]
        self._argv += ["-d", target.dbname_argument()]
        self._has_psql = os.access(tools.path("psql"), os.X_OK)
        self._aborted = threading.Event()
        self._psql: subprocess.Popen[bytes] | None = None
        self._connection = target.connect()
        self._used = time.monotonic()
        # COPY sends rows in this encoding. Names are read as bytes, and used in it too.
        self._encoding = manifest.server.encoding
        self._python_knows_it = manifest.server.codec != "utf-8" or self._encoding in ("UTF8", "SQL_ASCII")
        settings = {**_SETTINGS, "quote_all_identifiers": "off"}
        # Options can be abbreviated; no other one begins with --q.
        if any(option.startswith("--q") for option in manifest.dump.options):
            settings["quote_all_identifiers"] = "on"
        settings |= settings_for_values(manifest.dump.lc_monetary)
        self._settings = "; ".join(f"set {name} = '{value}'" for name, value in settings.items())
        self._connection.execute(self._settings.encode())
        self._limits = without_limits(self._connection.info.server_version)

    @property
    def connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The connection; a new one if the last may have been dropped, as it was idle for long while psql read.

        :raises InputError: as in `ConnectionParameters.connect`.
        :raises psycopg.Error: the server cannot be reached.
        """
        if is_stale(self._connection, self._used):
            self._connection.close()
            self._connection = self._target.connect()
            self._connection.execute(self._settings.encode())
        self._used = time.monotonic()
        return self._connection

    def close(self) -> None:
        """Disconnect."""
        self._end_psql()
        self._connection.close()

    def abort(self) -> None:
        """Make a read in progress fail, from another thread."""
        self._aborted.set()
        self._end_psql()
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def check(self) -> None:
        """Raise if the comparison was stopped.

        :raises Cancelled: `abort` was called.
        """
        if self._aborted.is_set():
            raise Cancelled("the comparison was stopped")

    def copy(self, command: bytes, *, expected_bytes: int) -> Generator[bytes, None, None]:
        """Yield the output of a COPY command, in blocks.

        :param command: the command, in the dump's encoding.
        :param expected_bytes: approximate size of the output.
        :raises UnreadableError: the server cannot execute the command on what was restored.
        :raises PgS3Error: the command fails for another reason.
        """
        self.check()
        is_short = len(command) < _LONGEST_ARGUMENT
        if self._has_psql and is_short and (expected_bytes > _LARGE_BYTES or not self._python_knows_it):
            return self._by_psql(command)
        return self._by_psycopg(command)

    def _by_psql(self, command: bytes) -> Generator[bytes, None, None]:
        # PGCLIENTENCODING, unlike a SET, also holds for the first command, whose names are in this encoding.
        env = self._env | {"PGCLIENTENCODING": self._encoding}
        argv: Sequence[str | bytes] = [*self._argv, "-c", self._limits, "-c", self._settings, "-c", command]
        self._target.renew_password(env)
        psql = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
        )
        self._psql = psql
        assert psql.stdout is not None
        assert psql.stderr is not None
        try:
            self.check()  # abort() may have been called just before there was a psql to kill
            enlarge(psql.stdout.fileno())
            yield from read_all(psql.stdout.fileno())
            message = redacted(psql.stderr.read().decode(errors="replace"))
            if psql.wait() != 0:
                if error := _PSQL_ERROR.search(message):
                    raise _read_error(error.group(1), error.group(2))
                raise ClientProgramError("psql", psql.returncode, message[-2000:])
        finally:
            self._end_psql()
            psql.stdout.close()
            psql.stderr.close()

    def _end_psql(self) -> None:
        if (psql := self._psql) is not None and psql.poll() is None:
            psql.kill()
            psql.wait()

    def _by_psycopg(self, command: bytes) -> Generator[bytes, None, None]:
        # Set only for the COPY: in some encodings psycopg can read nothing else.
        self.connection.execute(sql.SQL("set client_encoding = {}").format(sql.Literal(self._encoding)))
        rows: list[bytes] = []
        size = 0
        try:
            with self.connection.cursor() as cursor, cursor.copy(command) as copy:
                for row in copy:
                    rows.append(bytes(row))
                    size += len(row)
                    if size >= _BLOCK_BYTES:
                        yield b"".join(rows)
                        rows, size = [], 0
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise PgS3Error(f"reading the restored database failed: {error}") from error
            raise _read_error(error.sqlstate, error.diag.message_primary or str(error)) from error
        finally:
            with contextlib.suppress(psycopg.Error):
                self.connection.execute(b"set client_encoding = 'UTF8'")
        yield b"".join(rows)


def _read_error(sqlstate: str, message: str) -> PgS3Error:
    message = redacted(message)
    if sqlstate.startswith(_OF_THE_DATA):
        return UnreadableError(f"{message} (SQLSTATE {sqlstate})")
    return PgS3Error(f"reading the restored database failed: {message} (SQLSTATE {sqlstate})")
