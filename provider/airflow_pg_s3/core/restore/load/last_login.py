"""pg_restore's last login, which may fail because the password has expired, and on which nothing depends.

With two jobs or more, pg_restore's leader disconnects before the workers begin. When they are done, it logs in
again "to see if we missed something", with the password that it began with, whatever the password file holds by
then (restore_toc_entries_postfork in PostgreSQL's pg_backup_archiver.c, ConnectDatabase in its pg_backup_db.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Each message is written as a whole, but "pg_restore:" and the space before it may be another process's.
_BEGIN = r"(?:\A|pg_restore:) *"
_ITEM = re.compile(_BEGIN + r"(?:processing|launching|skipping) item (\d+) ")
_ALL_DONE = re.compile(_BEGIN + r"finished main parallel loop\Z")
# The second alternative is the wording of PostgreSQL 13.
_NO_LOGIN = re.compile(
    r"pg_restore: error: "
    r"(?:(?:reconnection failed: )?connection to server .+|(?:re)?connection to database \".*\") failed: .+"
)
_CHATTER = re.compile(
    r"(?:pg_restore:| )+"
    r"(?:connecting|creating|dropping|entering|executing|finished|launching|processing|restored|restoring|skipping)"
    r" .+"
)


class LastLogin:
    """Parses the output of ``pg_restore --verbose``, to find out whether only the last login failed.

    :param items: dump ids of all entries that it restores.
    """

    def __init__(self, items: Iterable[int]) -> None:
        self._left = set(items)
        self._are_workers_done = False
        self.has_failed = False

    def takes(self, line: str) -> bool:
        """Parse a line of standard error; return True if nobody else needs it."""
        self._left.difference_update(int(number) for number in _ITEM.findall(line))
        self._are_workers_done = self._are_workers_done or _ALL_DONE.search(line) is not None
        # Nothing is left: after the login it would have found nothing to do.
        if self._are_workers_done and not self._left and _NO_LOGIN.fullmatch(line):
            self.has_failed = True
            return True
        return _CHATTER.fullmatch(line) is not None and "error: " not in line and "warning: " not in line
