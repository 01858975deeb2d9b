"""Hides rows and passwords that error messages quote, before these go into logs and exceptions."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "(not shown)"
# The group ends where PostgreSQL's own words end and data begins. The texts are from copyfromparse.c, execMain.c,
# nbtinsert.c, ri_triggers.c, subscriptioncmds.c and from the input functions of types.
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
        r"(\bINSERT INTO (?:(?!INSERT INTO ).)+? VALUES\b)",
        # A piece of a command, which may lack the keyword that would identify its strings.
        r"^(LINE \d+: )(?=.*['$])",
        r"( at or near )\"(?:\w&?)?['$]",
        r"(invalid connection string syntax: )",
        r"(missing \"=\" after )\"",
    )
]
_BLANK = r"(?:\s|/\*(?:[^*]|\*(?!/)){0,200}\*/){0,200}"
_STRING = r"(?:[ENBX]|U&)?['$]"
_IN_NEXT_LINE = r"(?:--.*)?$"
SECRETS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(\bCONNECTION)(?={_BLANK}{_STRING})",
        rf"(\bSUBSCRIPTION .{{1,150}}? CONNECTION)(?={_BLANK}{_IN_NEXT_LINE})",
        rf"(password\"?)(?={_BLANK}(?:{_STRING}|{_IN_NEXT_LINE}))",
        # Options of servers, user mappings and foreign tables; only the wrapper knows which of them are secret.
        r"(\bOPTIONS)(?=\s*(?:\(|$))",
    )
]
"""Patterns of SQL whose group ends where credentials begin. A command may be quoted in part, or in another one."""

SECRETS_IN_STRINGS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(passw(?:or)?d\s*=)",
        r"(://[^/@:\s]{0,100}:)(?=[^@\s]{1,500}@)",
    )
]
"""The same for credentials within strings: libpq's keyword, and its URIs."""

# PostgreSQL's words after a key's values.
_AFTER_KEY = re.compile(
    r"\)( (?:already exists|is duplicated|is not present in table|is still referenced from table|conflicts with) ?"
    r"(?:\"[^\"]*\")?)[^()]*\.?$"
)
# A value may hold newlines: lines belong to it until one begins as a program's own do.
_OWN_LINE = re.compile(
    r"^(?:pg_restore|pg_dump|psql)[:\[]|^(?:DETAIL|HINT|QUERY|CONTEXT|STATEMENT):  |^Command was: "
)
# The beginning of a line when another parallel worker has interrupted it after the program's name and the colon; a
# value may also begin so.
_PIECE_OF_ERROR = re.compile(" *error: ")
_OVERLAP = 100


def redacted(text: str) -> str:
    """Return an error's text without the rows and credentials that it quotes."""
    redactor = Redactor()
    lines = (redactor.line(line) for line in text.splitlines())
    return "\n".join(line for line in lines if line is not None)


def first_match(patterns: Iterable[re.Pattern[str]], line: str) -> re.Match[str] | None:
    """Return the match whose group ends first, from where the line is to be hidden."""
    matches = [match for pattern in patterns if (match := pattern.search(line))]
    return min(matches, key=lambda match: match.end(1), default=None)


def hidden_from(line: str, start: int) -> str:
    """Return a line with everything from `start` hidden."""
    gap = "" if start == 0 or line[start - 1] in " =:" else " "
    return line[:start] + gap + HIDDEN


class Redactor:
    """Redacts the lines of a client program's standard error, in order; keeps names, line numbers and columns."""

    def __init__(self) -> None:
        self._is_hiding = False
        self._before = ""

    def line(self, text: str) -> str | None:
        """Return a line without secrets; None if nothing is left of it."""
        self._before = text[-_OVERLAP:]
        # The last line of a context, such as "COPY t, line 1", may follow one that held data.
        if self._is_hiding and not _OWN_LINE.match(text) and not _DATA[0].match(text):
            # Data is hidden, but never the fact that there is an error.
            return f"error: {HIDDEN}" if _PIECE_OF_ERROR.match(text) else None
        self._is_hiding = False
        first = first_match((*_DATA, *SECRETS, *SECRETS_IN_STRINGS), text)
        if first is None:
            return text
        self._is_hiding = True
        rest = _AFTER_KEY.search(text, first.end()) if first.re in _DATA else None
        if not text[first.end(1) :]:
            return text
        return hidden_from(text, first.end(1)) + (rest.group(1) if rest else "")

    def rest(self, text: str) -> None:
        """Read the rest of a long line, which is not shown: a secret may begin there and continue in the next."""
        text = self._before + text
        self._before = text[-_OVERLAP:]
        self._is_hiding = self._is_hiding or any(
            pattern.search(text) for pattern in (*SECRETS, *SECRETS_IN_STRINGS)
        )
