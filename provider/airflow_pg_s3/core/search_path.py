"""Advice on functions that name objects without a schema: in a restore, which has no search path, they fail."""

from __future__ import annotations

import re

from airflow_pg_s3.core.documents import document

_SEARCHED_CHARACTERS = 20_000
_PATTERN = re.compile(
    r"(?:function|operator|procedure|relation|type) (?![^\n(]*\.)[^\n]+ does not exist\b"
    # Skips what the error quotes, up to the innermost function.
    r"(?:(?!CONTEXT:  |error: )[\s\S])*"
    r"CONTEXT:  (?:compilation of )?(?:SQL|PL/\w+) function (?P<name>[^\n]+?) (?:during|statement|near line|line) "
)


def function_without_schemas(message: str) -> str | None:
    """Return the name of the function that failed to find an unqualified name; None for any other error.

    :param message: the server's error with its context, as psycopg or a client program shows it.
    """
    match = _PATTERN.search(message, 0, _SEARCHED_CHARACTERS)
    return None if match is None else match["name"].replace('"', "")


def advice(message: str) -> str:
    """Return advice to append to such an error; the empty string for any other error."""
    name = function_without_schemas(message)
    if name is None:
        return ""
    return (
        f"\n(the function {name} names things without their schema, and a restore has no search path: ALTER "
        "FUNCTION … SET search_path = … in the source, and back up again; to restore this backup, do that in "
        f"pre_data_sql, see {document('hard-cases.md')})"
    )
