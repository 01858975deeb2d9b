"""The last field of what is stored as JSON: a digest of all bytes before it, so that no damage goes unnoticed.

It is no signature: who can write to the bucket can seal anew. SECURITY.md says what helps against that.
"""

from __future__ import annotations

import hashlib
import re

_SEAL = re.compile(rb',\n {0,8}"sha256": "([0-9a-f]{64})"\n\}\n')
_SEAL_BYTES = 96


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
