"""Errors as they end a task of Airflow."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import DataConflict, InputError, PgS3Error


def final_error(error: PgS3Error, log: Any) -> Exception:
    """Say what went wrong, and return what to raise: without the chain of errors that led to it.

    Airflow shows the whole chain, under whose dozens of frames the sentence that says what to do would be lost.
    """
    log.error("%s", error)
    log.debug("how it came to that", exc_info=error)
    if not isinstance(error, InputError | DataConflict):
        return error
    final = AirflowFailException(str(error))
    for note in getattr(error, "__notes__", ()):
        final.add_note(note)
    return final
