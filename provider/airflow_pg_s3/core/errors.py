"""Errors, one class per decision that a caller can take.

Messages are one sentence for the person on call: what happened, to which object, and what to do.
"""

from __future__ import annotations

from airflow_pg_s3.core import search_path


class PgS3Error(Exception):
    """Anything that this package raises on purpose."""


class InputError(PgS3Error):
    """The request cannot work as it is: nothing was touched, and a retry fails in the same way."""


class StorageError(PgS3Error):
    """S3 refused or failed, after the client's own retries."""


class ServerError(PgS3Error):
    """PostgreSQL failed, or cannot be reached; trying again may help."""

    def __init__(self, message: str) -> None:
        super().__init__(message + search_path.advice(message))


class CopyError(ServerError):
    """PostgreSQL did not take the rows of a table.

    :param table: the table's name as messages show it, such as ``public.orders``.
    :param said: PostgreSQL's message, without the rows that it quotes.
    :param sqlstate: PostgreSQL's five-character code; None if the connection broke.
    :param is_of_extension: whether the table belongs to an extension.
    """

    def __init__(self, table: str, said: str, sqlstate: str | None, *, is_of_extension: bool = False) -> None:
        self.table = table
        self.said = said
        self.sqlstate = sqlstate
        self.is_of_extension = is_of_extension
        code = f" ({sqlstate})" if sqlstate else ""
        of, advice = "", ""
        if is_of_extension:
            of = ", a table of an extension,"
            advice = (
                " (if it wants a setting while they are loaded, give pre_restore_sql; or leave them out: "
                f"exclude_tables=[{table!r}])"
            )
        super().__init__(f"the rows of {table}{of} could not be loaded{code}: {said}{advice}")


class IntegrityError(PgS3Error):
    """What S3 holds is not what was backed up."""


class ClientProgramError(PgS3Error):
    """`pg_dump` or `pg_restore` failed.

    :param program: name of the program, such as ``pg_dump``.
    :param returncode: the program's exit status; a negative one is the number of the signal that killed it.
    :param stderr_tail: the last lines of the program's standard error.
    """

    def __init__(self, program: str, returncode: int, stderr_tail: str) -> None:
        self.program = program
        self.returncode = returncode
        self.stderr_tail = stderr_tail
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with status {returncode}"
        said = f":\n{stderr_tail}" if stderr_tail else ""
        super().__init__(f"{program} {how}{said}{search_path.advice(stderr_tail)}")


class DataConflict(PgS3Error):
    """The target holds something that this request would overwrite or mix with."""


class Cancelled(PgS3Error):
    """The task was told to stop; what it had begun has been undone."""
