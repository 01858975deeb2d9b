"""Chunks that are stored already, and how those that are not come to be: one behind the other, in runs."""

from __future__ import annotations

import hashlib
import threading
from array import array

from airflow_pg_s3.core.repository.codec import Encoder
from airflow_pg_s3.core.repository.manifest import run_key
from airflow_pg_s3.core.repository.members import DIGEST_BYTES, Chunk
from airflow_pg_s3.core.s3.upload import Uploader

RUN_BYTES = 8_000_000
"""Stored bytes after which a run ends and the next one begins."""


class KnownChunks:
    """Where chunks lie, by their SHA-256. Not thread-safe.

    A hash table over packed columns: 90 bytes a chunk, where a dict of tuples takes 350. A database of 10 TB has
    two million.
    """

    def __init__(self) -> None:
        self._digests = bytearray()
        self._raw_bytes = array("I")
        self._stored_bytes = array("I")
        self._offsets = array("Q")
        self._keys: list[str] = []
        self._numbers_of_keys: dict[str, int] = {}
        self._key_numbers = array("I")
        self._used = bytearray()
        # Numbers of chunks, from 1, each at the place that its digest says, or the next that was empty (0).
        self._slots = array("I", [0]) * 1024

    def __len__(self) -> int:
        return len(self._used)

    def add(self, chunk: Chunk) -> None:
        """Take note of a chunk; the first of equal ones counts."""
        slot = self._slot(chunk.sha256)
        if self._slots[slot]:
            return
        self._digests += chunk.sha256
        self._raw_bytes.append(chunk.raw_bytes)
        self._stored_bytes.append(chunk.stored_bytes)
        self._offsets.append(chunk.offset)
        if chunk.key not in self._numbers_of_keys:
            self._numbers_of_keys[chunk.key] = len(self._keys)
            self._keys.append(chunk.key)
        self._key_numbers.append(self._numbers_of_keys[chunk.key])
        self._used.append(0)
        self._slots[slot] = len(self)
        if 3 * len(self) > 2 * len(self._slots):
            self._grow()

    def use(self, sha256: bytes) -> tuple[Chunk, bool] | None:
        """Find a chunk; None if it is not known.

        :returns: also whether it was asked for for the first time.
        """
        index = self._slots[self._slot(sha256)] - 1
        if index < 0:
            return None
        key = self._keys[self._key_numbers[index]]
        chunk = Chunk(sha256, self._raw_bytes[index], key, self._offsets[index], self._stored_bytes[index])
        is_first = not self._used[index]
        self._used[index] = 1
        return chunk, is_first

    def _slot(self, sha256: bytes) -> int:
        """The slot of a chunk, or the empty one where it belongs."""
        last = len(self._slots) - 1
        slot = int.from_bytes(sha256[:8], "big") & last
        while (number := self._slots[slot]) and self._digest(number - 1) != sha256:
            slot = (slot + 1) & last
        return slot

    def _digest(self, index: int) -> bytes:
        return bytes(self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])

    def _grow(self) -> None:
        self._slots = array("I", [0]) * (2 * len(self._slots))
        for index in range(len(self)):
            self._slots[self._slot(self._digest(index))] = index + 1


class ChunkStore:
    """Stores the chunks of one backup, each of them once.

    :param folder: key prefix of the backup's objects.
    :param known: chunks of earlier backups; those of this one are added.
    """

    def __init__(
        self,
        uploader: Uploader,
        encoder: Encoder,
        known: KnownChunks,
        *,
        folder: str,
        run_bytes: int = RUN_BYTES,
    ) -> None:
        self.encoder = encoder
        self.run_bytes = run_bytes
        self.chunks = 0
        """Distinct chunks that the backup consists of."""
        self.stored_bytes = 0
        self.new_chunks = 0
        self.new_stored_bytes = 0
        self._uploader = uploader
        self._known = known
        self._base, _, self._backup_id = folder.rstrip("/").rpartition("/")
        self._runs = 0
        self._lock = threading.Lock()

    def begin_run(self) -> str:
        """Key of the next run, relative to the manifest's folder."""
        with self._lock:
            self._runs += 1
            return run_key(self._backup_id, self._runs, is_encrypted=bool(self.encoder.recipients))

    def find(self, sha256: bytes) -> Chunk | None:
        """Find a chunk that is stored, or about to be."""
        with self._lock:
            found = self._known.use(sha256)
            if found is None:
                return None
            chunk, is_first = found
            if is_first:
                self.chunks += 1
                self.stored_bytes += chunk.stored_bytes
            return chunk

    def claim(self, chunk: Chunk) -> Chunk:
        """Take note of a new chunk; return it, or an equal one that another thread has stored meanwhile."""
        with self._lock:
            found = self._known.use(chunk.sha256)
            if found is not None:
                return found[0]
            self._known.add(chunk)
            self._known.use(chunk.sha256)
            self.chunks += 1
            self.new_chunks += 1
            self.stored_bytes += chunk.stored_bytes
            self.new_stored_bytes += chunk.stored_bytes
            return chunk

    def put(self, key: str, run: bytearray) -> None:
        """Store a run in the background; raises as `Uploader.store`."""
        self._uploader.store(f"{self._base}/{key}", run)


class RunWriter:
    """Puts new chunks into runs. One thread uses it; a run may hold chunks of several members."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._encode = store.encoder.for_chunks()
        self._key = ""
        self._run = bytearray()

    def write(self, raw: memoryview) -> Chunk:
        """Store a chunk, unless it is stored; say where it is.

        :raises StorageError: an earlier object could not be stored.
        :raises Cancelled: told to stop.
        """
        sha256 = hashlib.sha256(raw).digest()
        chunk = self._store.find(sha256)
        if chunk is not None:
            return chunk
        stored = self._encode(raw)
        if not self._run:
            self._key = self._store.begin_run()
        new = Chunk(sha256, len(raw), self._key, len(self._run), len(stored))
        chunk = self._store.claim(new)
        if chunk is new:
            self._run += stored
            if len(self._run) >= self._store.run_bytes:
                self.end_run()
        return chunk

    def end_run(self) -> None:
        """Store the run that was begun; raises as `write`."""
        if self._run:
            self._store.put(self._key, self._run)
            self._run = bytearray()
