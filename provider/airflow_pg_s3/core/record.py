"""JSON records that end with a digest of themselves."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_SEAL = re.compile(rb',\n {0,8}"sha256": "([0-9a-f]{64})"\n\}\n')
_SEAL_BYTES = 96
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# What disks and PostgreSQL can count to: a larger number is no number of theirs, and breaks arithmetic later on.
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Record(BaseModel):
    """A part of what is stored as JSON."""

    # A later version of this tool may add fields; what changes their meaning changes the format's number.
    model_config = ConfigDict(frozen=True, extra="ignore")


class SealError(ValueError):
    """What is there is not what was written."""


def sealed(text: str) -> bytes:
    """Put the seal behind the other fields.

    :param text: a JSON object of at least one field, indented, one field a line.
    """
    body = text.removesuffix("\n}").encode()
    return body + f',\n "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def check_seal(data: bytes) -> None:
    """Make sure that not a byte was changed since the seal was made.

    :raises SealError: one was, or there is no seal.
    """
    match = _SEAL.search(data, max(0, len(data) - _SEAL_BYTES))
    if match is None or match.end() != len(data):
        raise SealError("its last field is not sha256, the digest of the rest: it is damaged, or was edited")
    if hashlib.sha256(data[: match.start()]).hexdigest().encode() != match.group(1):
        raise SealError("its sha256 is not the digest of the rest: it is damaged, or was edited")
