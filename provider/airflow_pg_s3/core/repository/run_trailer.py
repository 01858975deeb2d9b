"""The list of a run's chunks at its own end: the retry of a backup that was killed has no other.

docs/format.md describes it for others.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from airflow_pg_s3.core.repository.members import DIGEST_BYTES, LONGEST_CHUNK_BYTES, Chunk

MOST_CHUNKS = 100
"""No run has more chunks, so that whoever reads its end need not ask twice."""

# A skippable frame (RFC 8878, 3.1.2): to zstd, a run is its chunks.
_MAGIC = 0x184D2A5C
_HEAD = struct.Struct("<II")
_RECORD = struct.Struct(f"<{DIGEST_BYTES}sII")
_COUNT = struct.Struct("<I")
_TAIL_BYTES = _COUNT.size + DIGEST_BYTES
LONGEST_TRAILER_BYTES = _HEAD.size + MOST_CHUNKS * _RECORD.size + _TAIL_BYTES


def make_trailer(chunks: Sequence[Chunk]) -> bytes:
    """Make what follows the last chunk of a run."""
    records = b"".join(_RECORD.pack(chunk.sha256, chunk.raw_bytes, chunk.stored_bytes) for chunk in chunks)
    frame = _HEAD.pack(_MAGIC, len(records) + _TAIL_BYTES) + records + _COUNT.pack(len(chunks))
    return frame + hashlib.sha256(frame).digest()


def read_trailer(key: str, run_bytes: int, end: bytes) -> list[Chunk]:
    """Read which chunks a run holds; none if it does not say, or not in a way that is certain.

    :param key: of the run, relative to the manifest's folder.
    :param run_bytes: how long it is.
    :param end: its last bytes, `LONGEST_TRAILER_BYTES` of them if it has so many.
    """
    if len(end) < _TAIL_BYTES:
        return []
    (count,) = _COUNT.unpack_from(end, len(end) - _TAIL_BYTES)
    trailer = end[-(_HEAD.size + count * _RECORD.size + _TAIL_BYTES) :]
    records = trailer[_HEAD.size : -_TAIL_BYTES]
    if len(records) != count * _RECORD.size:
        return []
    chunks, offset = [], 0
    for sha256, raw_bytes, stored_bytes in _RECORD.iter_unpack(records):
        chunks.append(Chunk(sha256, raw_bytes, key, offset, stored_bytes))
        offset += stored_bytes
    is_sound = all(0 < size <= LONGEST_CHUNK_BYTES for chunk in chunks for size in (chunk[1], chunk[4]))
    if trailer != make_trailer(chunks) or offset + len(trailer) != run_bytes or not is_sound:
        return []
    return chunks
