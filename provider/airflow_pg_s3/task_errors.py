"""The translation of errors into exceptions that end an Airflow task."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import DataConflict, InputError, PgS3Error


def final_error(error: PgS3Error, log: Any) -> Exception:
    """Log an error, and return the exception to raise, without the chain of its causes.

    Airflow logs a whole chain, and the sentence with the advice would be lost among dozens of stack frames.
    """
    log.error("%s", error)
    log.debug("how it came to that", exc_info=error)
    if not isinstance(error, InputError | DataConflict):
        return error
    final = AirflowFailException(str(error))
    for note in getattr(error, "__notes__", ()):
        final.add_note(note)
    return final
