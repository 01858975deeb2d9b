"""A plain dump: a script for psql, replayed in one transaction that is committed only after its complete text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from itertools import chain

from airflow_pg_s3.core.errors import InputError, PgS3Error
from airflow_pg_s3.core.postgres.client_program import ClientProgram
from airflow_pg_s3.core.postgres.connection import without_limits
from airflow_pg_s3.core.postgres.stdin_feeder import run_with_stdin
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.restore.context import RestoreContext
from airflow_pg_s3.core.restore.external.completeness import whole_plain
from airflow_pg_s3.core.restore.external.psql import Psql
from airflow_pg_s3.core.restore.target import Target

_VERSION = re.compile(rb"^-- Dumped from database version (\d+(?:\.\d+)?)", re.MULTILINE)
_RESTRICT = re.compile(rb"^\\restrict (\w+)\r?$", re.MULTILINE)
_FIRST_COMMAND = re.compile(rb"^(?:CREATE|DROP) +(\w+)", re.MULTILINE)
_FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT = 17
# Written when single schemas are dumped; schemas are then the first entries.
_DROPS_PUBLIC = re.compile(rb'^DROP SCHEMA (?:IF EXISTS )?"?public"?;\r?\n', re.MULTILINE)
_CREATES_PUBLIC = re.compile(
    rb'^(-- Name: public; Type: SCHEMA; .*\r?\n--\r?\n\r?\n)CREATE SCHEMA "?public"?;', re.MULTILINE
)
_UNKNOWN_TO_OLDER = b"\nSET transaction_timeout = 0;"


class Script:
    """A plain dump.

    :param beginning: the dump's first few thousand bytes.
    :param chunks: the whole dump.
    :raises InputError: the dump would create a database of its own.
    """

    def __init__(self, beginning: bytes, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        version = _VERSION.search(beginning)
        self.version = version.group(1).decode() if version else None
        restrict = _RESTRICT.search(beginning)
        self._restrict_key = restrict.group(1) if restrict else None
        command = _FIRST_COMMAND.search(beginning)
        if command is not None and command.group(1) == b"DATABASE":
            raise InputError(
                "this plain dump creates or drops a database of its own name (pg_dump --create), which cannot be "
                "done elsewhere, nor in a transaction: replay it with psql, or dump without --create"
            )

    def replay(self, psql: Psql, target: Target, context: RestoreContext, *, has_public: bool) -> int:
        """Run the dump with psql; return its size in bytes.

        Large objects end the transaction early: pg_dump writes a COMMIT after them.

        :param has_public: whether the target has the schema public, which is then neither dropped nor created.
        :raises ClientProgramError: psql failed.
        :raises PgS3Error: psql succeeded, but ended before the script did.
        :raises IntegrityError: the script is incomplete; its last chunk was withheld from psql.
        :raises Cancelled: the restore was told to stop.
        """
        token = f"end_{secrets.token_hex(32)}"
        before, after = self._around(psql, token, target.version)
        fed_bytes = run_with_stdin(
            [
                psql.path,
                "--no-psqlrc",
                "--quiet",
                "--no-password",
                "--set=ON_ERROR_STOP=1",
                f"--dbname={target.params.dbname_argument()}",
                "--file=-",
            ],
            env=target.params.environment(context.workspace.folder) | context.workspace.environment,
            chunks=chain(
                [before], whole_plain(self._adapted(target.version, has_public), self._restrict_key), [after]
            ),
            judge=_Judge(token, context.log),
            cancel=context.cancel,
            log=context.log,
        )
        return fed_bytes - len(before) - len(after)

    def _around(self, psql: Psql, token: str, target_version: int) -> tuple[bytes, bytes]:
        # Not --single-transaction: psql would commit at the end of its input, even if the input ends because this
        # process was killed.
        before = without_limits(target_version) + b";\nBEGIN;\n"
        if self._restrict_key is None and psql.knows_restrict:
            # The dump is an older pg_dump's: such dumps hold no meta-commands.
            before += b"\\restrict %s\n" % secrets.token_hex(16).encode()
        # A script can end psql with status 0 (\q). So a command after the script makes the server return the
        # token, in a notice that the name is too long. The command changes nothing, and fires no event trigger.
        after = f"\nCOMMIT;\nSET client_min_messages = notice;\nSELECT 1 AS {token};\n"
        return before, after.encode()

    def _adapted(self, target_version: int, has_public: bool) -> Iterator[bytes]:
        """Return the script without what the target would refuse, all of which is in the first chunk."""
        first = next(self._chunks, b"")
        if target_version // 10000 < _FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT:
            first = first.replace(_UNKNOWN_TO_OLDER, b"", 1)
        if has_public:
            first = _CREATES_PUBLIC.sub(rb"\1", _DROPS_PUBLIC.sub(b"", first, count=1), count=1)
        return chain([first], self._chunks)


class _Judge:
    """Waits for the notice with the token, which proves that the dump's end was reached."""

    is_hopeless = False

    def __init__(self, token: str, log: Log) -> None:
        self._token = token
        self._log = log
        self._is_committed = False

    def see(self, line: str) -> None:
        if self._token in line:
            self._is_committed = True
        else:
            self._log.info("%s", line)

    def check(self, program: ClientProgram) -> None:
        program.check()
        program.stderr_tail()  # waits until all lines have been read
        if not self._is_committed:
            raise PgS3Error("psql ended before the dump's end, and did not commit its last part")
