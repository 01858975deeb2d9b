"""Functions that name things without their schema, told by the server's words: a restore has no search path."""

from __future__ import annotations

import re

_LOOK_CHARACTERS = 20_000
_PATTERN = re.compile(
    r"(?:function|operator|procedure|relation|type) (?![^\n(]*\.)[^\n]+ does not exist\b"
    # What the error quotes, up to the innermost function.
    r"(?:(?!CONTEXT:  |error: )[\s\S])*"
    r"CONTEXT:  (?:compilation of )?(?:SQL|PL/\w+) function (?P<name>[^\n]+?) (?:during|statement|near line|line) "
)


def function_without_schemas(said: str) -> str | None:
    """Name the function in which something was not found that has no schema before its name; None if it is none.

    :param said: an error of the server, with its context, as psycopg or a client program shows it.
    """
    match = _PATTERN.search(said, 0, _LOOK_CHARACTERS)
    return None if match is None else match["name"].replace('"', "")


def advice(said: str) -> str:
    """What to do about such an error, to be put behind it; nothing for all others."""
    name = function_without_schemas(said)
    if name is None:
        return ""
    return (
        f"\n(the function {name} names things without their schema, and a restore has no search path: ALTER "
        "FUNCTION … SET search_path = … in the source, and back up again; to restore this backup, do that in "
        "pre_data_sql, see docs/hard-cases.md)"
    )
