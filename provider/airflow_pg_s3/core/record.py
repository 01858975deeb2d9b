"""JSON records that end with a digest of themselves."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_SEAL = re.compile(rb',\n {0,8}"sha256": "([0-9a-f]{64})"\n\}\n')
_SEAL_BYTES = 96
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# No disk and no PostgreSQL counts further: a larger number is damage, and would break arithmetic later.
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Record(BaseModel):
    """One object of the JSON that is stored."""

    # A later version of this tool may add fields. A change of meaning gets a new format number.
    model_config = ConfigDict(frozen=True, extra="ignore")


class SealError(ValueError):
    """The record differs from what was written, or was never sealed."""


def sealed(text: str) -> bytes:
    """Append the seal, a field with the SHA-256 of everything before it.

    :param text: a JSON object of at least one field, indented, one field a line.
    """
    body = text.removesuffix("\n}").encode()
    return body + f',\n "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def check_seal(data: bytes) -> None:
    """Check that no byte has changed since the record was sealed.

    :raises SealError: a byte has changed, or the seal is missing.
    """
    match = _SEAL.search(data, max(0, len(data) - _SEAL_BYTES))
    if match is None or match.end() != len(data):
        raise SealError("its last field is not sha256, the digest of the rest: it is damaged, or was edited")
    if hashlib.sha256(data[: match.start()]).hexdigest().encode() != match.group(1):
        raise SealError("its sha256 is not the digest of the rest: it is damaged, or was edited")
