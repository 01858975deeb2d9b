"""Reads chunks from S3: fetched ahead, each decoded whole and compared with its digest before it is handed on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.members import Chunk, Chunks
from airflow_pg_s3.core.s3.download import RANGE_BYTES, Downloader, StoredRange


def read_chunks(chunks: Chunks, base: str, downloader: Downloader, decoder: Decoder) -> Iterator[bytes]:
    """Yield the raw bytes of each chunk, in order.

    :param base: key prefix of the manifest's folder.
    :raises IntegrityError: one is not what was backed up; nothing of it was handed on.
    :raises StorageError: S3 failed.
    """
    wanted = (
        (StoredRange(base + extent.key, extent.offset, extent.offset + extent.stored_bytes), extent)
        for extent in chunks.extents(RANGE_BYTES)
    )
    for extent, stored in downloader.ranges(wanted):
        for chunk in extent.chunks:
            begin = chunk.offset - extent.offset
            yield open_chunk(chunk, stored[begin : begin + chunk.stored_bytes], decoder)


def open_chunk(chunk: Chunk, stored: bytes, decoder: Decoder) -> bytes:
    """Decode a chunk, and make sure that it is what was backed up.

    :raises IntegrityError: it is not.
    """
    where = f"is damaged at byte {chunk.offset} of {chunk.key}: the chunk there"
    try:
        raw = decoder.decode_chunk(stored, chunk.raw_bytes)
    except IntegrityError as error:
        raise IntegrityError(f"{where} {error}") from error
    if (found := hashlib.sha256(raw).digest()) != chunk.sha256:
        raise IntegrityError(f"{where} has SHA-256 {found.hex()}, but {chunk.sha256.hex()} was backed up")
    return raw
