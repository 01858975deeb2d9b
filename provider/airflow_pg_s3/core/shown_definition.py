"""What may be shown of a definition: evidence lies in clear beside backups that may be encrypted."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.redaction import HIDDEN, SECRETS, SECRETS_IN_STRINGS, first_match, hidden_from
from airflow_pg_s3.core.statements import without_strings

# Whose strings are how another server is reached.
_OF_OTHER_SERVERS = ("FOREIGN DATA WRAPPER", "FOREIGN TABLE", "SERVER", "SUBSCRIPTION", "USER MAPPING")


def shown_lines(kind: str, lines: Sequence[str], *, backslashes: bool) -> list[str]:
    """Hide what opens other servers. For each line there is one.

    :param kind: of the entry.
    :param backslashes: they escape in every string (``standard_conforming_strings`` is off).
    """
    if kind in _OF_OTHER_SERVERS:
        try:
            return without_strings("\n".join(lines), backslashes=backslashes).split("\n")
        except IntegrityError:
            return [HIDDEN] * len(lines)
    shown = []
    is_open = begins_next = False
    for line in lines:
        first = first_match((*SECRETS, *SECRETS_IN_STRINGS), line)
        if first is None and not is_open and not begins_next:
            shown.append(line)
            continue
        start = 0 if is_open or begins_next or first is None else first.end(1)
        shown.append(hidden_from(line, start))
        # The secret's string goes on in the next line, or begins there.
        is_within = first is not None and first.re in SECRETS_IN_STRINGS and line.count("'", 0, start) % 2 == 1
        is_open = (is_open or is_within) != (line.count("'", start) % 2 == 1)
        begins_next = not line[start:].strip()
    return shown
