"""PostgreSQL's encodings in Python's terms."""

from __future__ import annotations

from typing import Any

import psycopg

# Source: pg_enc2name_tbl in PostgreSQL's encnames.c. UTF-8 stands in where Python has no codec, and for SQL_ASCII,
# which allows any bytes.
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
    """True if PostgreSQL has an encoding of this name."""
    return encoding in _CODECS


def codec_of(encoding: str) -> str:
    """Return Python's codec for an encoding of PostgreSQL; UTF-8 where Python has none, and for SQL_ASCII."""
    return _CODECS.get(encoding, "utf-8")


def psycopg_knows(encoding: str) -> bool:
    """True if psycopg knows an encoding; it lacks two that servers can have."""
    return encoding not in ("EUC_TW", "MULE_INTERNAL")


def as_text(value: str | bytes) -> str:
    """Return a text that psycopg has read as str; in a session in SQL_ASCII, psycopg returns bytes."""
    return value.decode(codec_of("SQL_ASCII"), errors="surrogateescape") if isinstance(value, bytes) else value


def in_session(command: str, connection: psycopg.Connection[tuple[Any, ...]]) -> bytes:
    """Encode a command with names from `as_text`; in a session in SQL_ASCII, psycopg would accept only ASCII."""
    codec = connection.info.encoding
    return command.encode(codec_of("SQL_ASCII") if codec == "ascii" else codec, errors="surrogateescape")


def decode_name(text: bytes, codec: str) -> str:
    """Decode a name to the form that manifests have.

    :param codec: Python codec of the name's encoding.
    """
    for candidate in (codec, "utf-8"):
        try:
            return text.decode(candidate)
        except UnicodeDecodeError:
            continue
    # SQL_ASCII allows any bytes.
    return text.decode("latin-1")
