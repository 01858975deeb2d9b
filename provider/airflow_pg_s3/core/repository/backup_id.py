"""Ids of backups: when the dump began, by the source server's clock, and some random bits. They sort by time.

Small databases can be backed up twice within a second, so the id also has the 256th of the second.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from datetime import UTC, datetime

LATEST = "latest"
LATEST_VERIFIED = "latest-verified"
"""What may stand in place of an id."""

_ID = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{6}")
_TIME = "%Y%m%dT%H%M%SZ"


def new_backup_id(now: datetime) -> str:
    """Make an id for a backup that begins `now`."""
    return f"{beginning_at(now)}-{now.microsecond * 256 // 1_000_000:02x}{secrets.token_hex(2)}"


def beginning_at(time: datetime) -> str:
    """What the ids of backups that began in this second begin with; it sorts before them, and after all older."""
    return time.astimezone(UTC).strftime(_TIME)


def time_of_beginning(name: str) -> datetime | None:
    """When a backup began, to the second, by a key's name that begins with its id; None for any other name."""
    match = _ID.match(name)
    with contextlib.suppress(ValueError):  # such as month 13
        return datetime.strptime(match.group(1), _TIME).replace(tzinfo=UTC) if match else None
    return None


def time_of(backup_id: str) -> datetime | None:
    """When a backup began, to the second, by its id; None for what is no id."""
    return time_of_beginning(backup_id) if _ID.fullmatch(backup_id) else None


def is_of_backup(name: str) -> bool:
    """True if the last part of a URI is of a backup: a word for one, an id, or what begins with an id."""
    return name in (LATEST, LATEST_VERIFIED) or time_of_beginning(name) is not None
