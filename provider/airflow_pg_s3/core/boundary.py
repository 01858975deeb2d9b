"""The edge of the core's verbs: what PostgreSQL or the machine refuses leaves it as one of our errors."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import psycopg

from airflow_pg_s3.core.errors import CopyError, PgS3Error, ServerError
from airflow_pg_s3.core.redaction import redacted

_P = ParamSpec("_P")
_R = TypeVar("_R")
_ADVICE = {
    errno.ENOSPC: "make room, or give a spool_dir with more",
    errno.EDQUOT: "make room, or give a spool_dir with more",
    errno.EMFILE: "raise the worker's limit on open files (ulimit -n), or use fewer jobs",
    errno.ENFILE: "the machine has too many open files: raise fs.file-max, or run fewer tasks",
    errno.ENOMEM: "the worker has too little memory: use fewer jobs",
    errno.EAGAIN: "the worker has too many processes (ulimit -u): use fewer jobs",
}


def is_lack(error: OSError) -> bool:
    """Whether the machine has not enough of something, so that trying again later may help."""
    return error.errno in _ADVICE


def server_error(error: psycopg.Error) -> ServerError:
    """What PostgreSQL says, without the rows and passwords that it quotes."""
    code = f" ({error.sqlstate})" if error.sqlstate else ""
    return ServerError(f"PostgreSQL failed{code}: {redacted(str(error).strip())}")


def copy_error(table: str, error: psycopg.Error) -> CopyError:
    """What PostgreSQL says of a table's rows, without the rows and passwords that it quotes."""
    return CopyError(table, redacted(str(error).strip()), error.sqlstate)


def one_error(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a verb: it raises nothing but `PgS3Error`, unless it has a bug."""

    @functools.wraps(verb)
    def checked(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        try:
            return verb(*arguments, **keywords)
        except psycopg.Error as error:
            # Not chained, as its own text quotes rows; but where it happened is kept.
            raise server_error(error).with_traceback(error.__traceback__) from None
        except OSError as error:
            if error.errno is None or not is_lack(error):
                raise
            raise PgS3Error(f"{error}: {_ADVICE[error.errno]}") from error

    return checked
