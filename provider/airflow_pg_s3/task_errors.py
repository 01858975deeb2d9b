"""The translation of errors into exceptions that end an Airflow task."""

from __future__ import annotations

import logging
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import DataConflict, InputError, PgS3Error

LINE_WIDTH = 100
"""Characters of a line of an error, as Airflow's page cuts longer ones off."""
# The user's connection, in messages of core; core's own are "the connection that …" and "the connection to …".
_POSTGRES = re.compile(r"\bthe connection(?='s | names | has both | has sslr| another | a (?:login|password)\b)")
_AWS = re.compile(r"\bthe AWS connection(?! ')")
# How messages of psycopg and libpq begin when they cannot connect.
_CANNOT_CONNECT = re.compile(r"\bcannot connect to\b|\bconnection (?:failed|is bad|timeout|to server)\b")
_CLIENT_PATH = "the option [pg_s3] client_path"
_IS_LOGGED = "_is_logged_by_pg_s3"
_AnyException = TypeVar("_AnyException", bound=Exception)


def with_conn_ids(message: str, postgres_conn_id: str | None, aws_conn_id: str | None) -> str:
    """Name the Airflow connections of which a message of core speaks, as these are what is to be changed."""
    if aws_conn_id:
        message = _AWS.sub(f"the AWS connection {aws_conn_id}", message)
    if not postgres_conn_id:
        return message
    named = _POSTGRES.sub(f"the Airflow connection {postgres_conn_id}", message)
    if named == message and _CANNOT_CONNECT.search(message):
        named += f"; this is the Airflow connection {postgres_conn_id}"
    return named


def with_client_path(message: str, folders: Sequence[str]) -> str:
    """Let a message that speaks of ``client_path`` say what it is now, and when a change takes effect."""
    now = ":".join(folders) or "empty"
    return message.replace(
        _CLIENT_PATH,
        f"{_CLIENT_PATH}, which is now {now} (Airflow reads a change of airflow.cfg when it is started again)",
    )


def final_error(error: PgS3Error, log: Any, in_words: Callable[[str], str] = str) -> Exception:
    """Log an error, and return the exception to raise, without the chain of its causes.

    :param in_words: applied to its message.
    """
    log.debug("how it came to that", exc_info=error)
    if not isinstance(error, InputError | DataConflict):
        error.args = (in_words(str(error)),)
        return logged(error, log)
    final = AirflowFailException(in_words(str(error)))
    for note in getattr(error, "__notes__", ()):
        final.add_note(note)
    return logged(final, log)


def logged(error: _AnyException, log: Any) -> _AnyException:
    """Log the message of an exception that is not a bug of ours, and return it, to be raised.

    Airflow would log it once or twice more, below the stack frames of its own: these records are left out.
    """
    notes = getattr(error, "__notes__", ())
    log.error("%s", "\n".join(_wrapped(line) for text in (str(error), *notes) for line in text.splitlines()))
    setattr(error, _IS_LOGGED, True)
    processors = structlog.get_config()["processors"]
    if _leave_out_logged not in processors:
        processors.insert(0, _leave_out_logged)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_new)
    return error


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line, LINE_WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _leave_out_logged(_logger: Any, _method: str, event: Any) -> Any:
    """Processor of structlog, which the task runner logs with: drop what is logged already."""
    if event.get("exc_info") is True and getattr(sys.exception(), _IS_LOGGED, False):
        raise structlog.DropEvent
    return event


def _is_new(record: logging.LogRecord) -> bool:
    """Filter of the standard library's logging, which the rendering of templates logs with: the same."""
    return not (record.exc_info and getattr(record.exc_info[1], _IS_LOGGED, False))
