"""A plain dump: a script for psql, replayed in one transaction that only its whole text commits."""

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
# Of a dump of some schemas, in which schemas come first.
_DROPS_PUBLIC = re.compile(rb'^DROP SCHEMA (?:IF EXISTS )?"?public"?;\r?\n', re.MULTILINE)
_CREATES_PUBLIC = re.compile(
    rb'^(-- Name: public; Type: SCHEMA; .*\r?\n--\r?\n\r?\n)CREATE SCHEMA "?public"?;', re.MULTILINE
)
_UNKNOWN_TO_OLDER = b"\nSET transaction_timeout = 0;"


class Script:
    """A plain dump.

    :param beginning: its first bytes, some thousands.
    :param chunks: all of it.
    :raises InputError: it would create a database of its own.
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
        """Let psql run it, and return its bytes.

        Large objects in it end the transaction early: pg_dump writes a COMMIT behind them.

        :param has_public: the target has the schema public, which then is neither dropped nor created.
        :raises ClientProgramError: psql failed.
        :raises PgS3Error: psql ended well, but before the script did.
        :raises IntegrityError: the script ends too early; psql has not seen its end.
        :raises Cancelled: told to stop.
        """
        token = f"end_{secrets.token_hex(32)}"
        before, after = self._around(psql, token, target.version)
        poured_bytes = run_with_stdin(
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
        return poured_bytes - len(before) - len(after)

    def _around(self, psql: Psql, token: str, target_version: int) -> tuple[bytes, bytes]:
        # Not --single-transaction: at the end of its input psql would commit, also where the input ends because
        # this process was killed.
        before = without_limits(target_version) + b";\nBEGIN;\n"
        if self._restrict_key is None and psql.knows_restrict:
            # A dump of an older pg_dump: no meta-command has any business in it.
            before += b"\\restrict %s\n" % secrets.token_hex(16).encode()
        # A script can end psql (\q), with status 0. So its end makes the server say the token, in a notice that
        # the name is too long; nothing is changed by it, and no event trigger fires.
        after = f"\nCOMMIT;\nSET client_min_messages = notice;\nSELECT 1 AS {token};\n"
        return before, after.encode()

    def _adapted(self, target_version: int, has_public: bool) -> Iterator[bytes]:
        """The script, without what the target does not need, and would refuse: all of it is at the beginning."""
        first = next(self._chunks, b"")
        if target_version // 10000 < _FIRST_MAJOR_WITH_TRANSACTION_TIMEOUT:
            first = first.replace(_UNKNOWN_TO_OLDER, b"", 1)
        if has_public:
            first = _CREATES_PUBLIC.sub(rb"\1", _DROPS_PUBLIC.sub(b"", first, count=1), count=1)
        return chain([first], self._chunks)


class _Judge:
    """Waits for the notice that says that the dump's end was reached."""

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
        program.stderr_tail()  # all lines have come
        if not self._is_committed:
            raise PgS3Error("psql ended before the dump's end, and committed nothing of what came last")
