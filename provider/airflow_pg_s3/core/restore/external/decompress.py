"""gzip and zstd around an archive, decompressed in small pieces as it streams; an incomplete one is an error."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

from airflow_pg_s3.core.errors import IntegrityError, PgS3Error
from airflow_pg_s3.core.restore.external.completeness import NotAnArchive

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd


# Limits memory, however much a piece of input unpacks to.
_PIECE_BYTES = 1 << 20
_GZIP_WBITS = 31
# The window of `zstd --long=31`, 2 GiB. By default zstd refuses more than 128 MiB.
_ZSTD_OPTIONS: Mapping[int, int] = {zstd.DecompressionParameter.window_log_max: 31}


class Compression(Enum):
    """The compression around an archive."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


def unwrap(chunks: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """Yield what `chunks` unpack to, in pieces of at most 1 MiB; without compression, the chunks themselves.

    :raises IntegrityError: the data is damaged, ends too early, or continues after its end.
    :raises NotAnArchive: the data cannot be unpacked without a dictionary.
    :raises PgS3Error: the worker has too little memory for the data.
    """
    if compression is Compression.GZIP:
        return _gunzip(chunks)
    if compression is Compression.ZSTD:
        return _unzstd(chunks)
    return iter(chunks)


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Several gzip members in a row are one stream (pigz -i, cat a.gz b.gz); zeros may fill its last block (tape).
    member: zlib._Decompress | None = None
    members = 0
    for chunk in chunks:
        data, has_more = chunk, False
        while data or has_more:
            if member is None:
                data = data.lstrip(b"\0") if members else data
                if not data:
                    break
                member = zlib.decompressobj(_GZIP_WBITS)
                members += 1
            try:
                piece = member.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise IntegrityError(f"cannot be unpacked as gzip: {error}") from error
            if piece:
                yield piece
            # After a full piece there may be more output, even if all input is consumed.
            has_more = len(piece) == _PIECE_BYTES
            data = member.unconsumed_tail
            if member.eof:
                data, member, has_more = member.unused_data, None, False
    if member is not None or not members:
        raise IntegrityError("ends too early: its gzip data is not complete")


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    frame: zstd.ZstdDecompressor | None = None
    frames = 0
    for chunk in chunks:
        data = chunk
        while data or (frame is not None and not frame.needs_input):
            if frame is None:
                frame = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
                frames += 1
            try:
                piece = frame.decompress(data, _PIECE_BYTES)
            except zstd.ZstdError as error:
                raise _translated(error) from error
            if piece:
                yield piece
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
    if frame is not None or not frames:
        raise IntegrityError("ends too early: its zstd data is not complete")


def _translated(error: zstd.ZstdError) -> PgS3Error:
    if "Dictionary mismatch" in str(error):
        return NotAnArchive("is zstd data made with a dictionary (zstd -D): unpack it first")
    if "not enough memory" in str(error):
        return PgS3Error(
            "the archive takes more memory to unpack than the worker has, up to 2 GiB (zstd --long=31): "
            "give it more, or unpack the archive first"
        )
    return IntegrityError(f"cannot be unpacked as zstd: {error}")
