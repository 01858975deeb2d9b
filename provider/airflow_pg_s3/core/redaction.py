"""Rows are secrets: what PostgreSQL's error messages quote of them does not go into logs and exceptions."""

from __future__ import annotations

import re

HIDDEN = "(not shown)"

# Up to the group, PostgreSQL's own words; behind it, data. The texts are those of copyfromparse.c, execMain.c,
# nbtinsert.c, ri_triggers.c and of the input functions of types.
_DATA = [
    re.compile(pattern)
    for pattern in (
        r"^((?:CONTEXT:  )?COPY .+?, line \d+(?:, column .+?)?: )",
        r"^((?:CONTEXT:  )?JSON data, line \d+: )",
        r"^(DETAIL:  (?:Partition k|Existing k|K)ey \(.+?\)=)",
        r"^(DETAIL:  Partition key of the failing row contains \(.+?\) = )",
        r"^(DETAIL:  Failing row contains )",
        # psycopg leaves the severity out.
        r"((?:^|ERROR:  )(?:invalid input syntax for type|invalid input value for enum|malformed) .+?: )\"",
        r"((?:^|ERROR:  )(?:date/time field value out of range|time zone displacement out of range): )\"",
        r"((?:^|ERROR:  )value )\".*\" is out of range for type",
    )
]
# What PostgreSQL says behind a key's values.
_BEHIND_KEY = re.compile(
    r"\)( (?:already exists|is duplicated|is not present in table|is still referenced from table|conflicts with) ?"
    r"(?:\"[^\"]*\")?)[^()]*\.?$"
)
# A value may hold newlines: what follows belongs to it, until a program begins a line of its own.
_OWN_LINE = re.compile(
    r"^(?:pg_restore|pg_dump|psql)[:\[]|^(?:DETAIL|HINT|QUERY|CONTEXT|STATEMENT):  |^Command was: "
)


def without_rows(text: str) -> str:
    """Return an error's text without the data of rows that PostgreSQL quotes in it."""
    redactor = RowRedactor()
    lines = (redactor.line(line) for line in text.splitlines())
    return "\n".join(line for line in lines if line is not None)


class RowRedactor:
    """Takes the lines of a client program's standard error in their order; keeps table, line and column."""

    def __init__(self) -> None:
        self._is_in_data = False

    def line(self, text: str) -> str | None:
        """Return the line without data; None for one that is nothing else."""
        # The outermost line of a context, such as "COPY t, line 1", may follow one that held data.
        if self._is_in_data and not _OWN_LINE.match(text) and not _DATA[0].match(text):
            return None
        self._is_in_data = False
        for pattern in _DATA:
            if match := pattern.search(text):
                self._is_in_data = True
                behind = _BEHIND_KEY.search(text, match.end())
                return text[: match.end(1)] + HIDDEN + (behind.group(1) if behind else "")
        return text
