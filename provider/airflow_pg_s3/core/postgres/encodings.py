"""PostgreSQL's encodings in Python's terms."""

from __future__ import annotations

from typing import Any

import psycopg

# Source: pg_enc2name_tbl of PostgreSQL's encnames.c. UTF-8 where Python has none, and for SQL_ASCII, which holds
# whatever was put in.
_CODECS = {
    "SQL_ASCII": "utf-8", "UTF8": "utf-8", "MULE_INTERNAL": "utf-8",
    "EUC_JP": "euc_jp", "EUC_CN": "gb2312", "EUC_KR": "euc_kr", "EUC_TW": "utf-8", "EUC_JIS_2004": "euc_jis_2004",
    "SJIS": "shift_jis", "SHIFT_JIS_2004": "shift_jis_2004", "BIG5": "big5", "GBK": "gbk", "UHC": "cp949",
    "GB18030": "gb18030", "JOHAB": "johab", "KOI8R": "koi8-r", "KOI8U": "koi8-u",
    "LATIN1": "iso8859-1", "LATIN2": "iso8859-2", "LATIN3": "iso8859-3", "LATIN4": "iso8859-4",
    "LATIN5": "iso8859-9", "LATIN6": "iso8859-10", "LATIN7": "iso8859-13", "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15", "LATIN10": "iso8859-16",
    "ISO_8859_5": "iso8859-5", "ISO_8859_6": "iso8859-6", "ISO_8859_7": "iso8859-7", "ISO_8859_8": "iso8859-8",
    "WIN866": "cp866", "WIN874": "cp874", "WIN1250": "cp1250", "WIN1251": "cp1251", "WIN1252": "cp1252",
    "WIN1253": "cp1253", "WIN1254": "cp1254", "WIN1255": "cp1255", "WIN1256": "cp1256", "WIN1257": "cp1257",
    "WIN1258": "cp1258",
}  # fmt: skip


def is_known(encoding: str) -> bool:
    """Whether PostgreSQL has an encoding of this name."""
    return encoding in _CODECS


def codec_of(encoding: str) -> str:
    """Return Python's codec for an encoding of PostgreSQL; UTF-8 where Python has none, and for SQL_ASCII."""
    return _CODECS.get(encoding, "utf-8")


def psycopg_knows(encoding: str) -> bool:
    """Whether psycopg can speak to a server in an encoding; of those of servers, Python lacks two."""
    return encoding not in ("EUC_TW", "MULE_INTERNAL")


def as_text(value: str | bytes) -> str:
    """Return text or a name that psycopg has read; it hands out bytes in a session whose encoding is SQL_ASCII."""
    return value.decode(codec_of("SQL_ASCII"), errors="surrogateescape") if isinstance(value, bytes) else value


def in_session(command: str, connection: psycopg.Connection[tuple[Any, ...]]) -> bytes:
    """Encode a command with names from `as_text`; psycopg would take ASCII alone where it hands out bytes."""
    codec = connection.info.encoding
    return command.encode(codec_of("SQL_ASCII") if codec == "ascii" else codec, errors="surrogateescape")


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
