"""PostgreSQL's encodings in Python's terms."""

from __future__ import annotations

import codecs

# Where PostgreSQL's name of an encoding is none of Python's.
_CODECS = {"EUC_CN": "gb2312", "KOI8R": "koi8-r", "KOI8U": "koi8-u"}


def codec_of(encoding: str) -> str:
    """Return Python's codec for an encoding of PostgreSQL.

    UTF-8 where Python has none, and for SQL_ASCII, which holds whatever was put in.
    """
    try:
        return codecs.lookup(_CODECS.get(encoding, encoding.replace("WIN", "cp"))).name
    except LookupError:
        return "utf-8"


def decode_name(text: bytes, codec: str) -> str:
    """Decode a name as the manifest shows it.

    :param codec: Python codec of the encoding that it is in.
    """
    for candidate in (codec, "utf-8"):
        try:
            return text.decode(candidate)
        except UnicodeDecodeError:
            continue
    # SQL_ASCII holds whatever was put in.
    return text.decode("latin-1")
