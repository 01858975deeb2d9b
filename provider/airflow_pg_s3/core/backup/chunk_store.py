"""How chunks come to be stored: one behind the other, in runs, and each of them once."""

from __future__ import annotations

import hashlib
import threading

from airflow_pg_s3.core.backup.abandoned_chunks import AbandonedChunks
from airflow_pg_s3.core.backup.known_chunks import KnownChunks
from airflow_pg_s3.core.repository.codec import Encoder
from airflow_pg_s3.core.repository.manifest import run_key
from airflow_pg_s3.core.repository.members import Chunk
from airflow_pg_s3.core.repository.run_trailer import MOST_CHUNKS, make_trailer
from airflow_pg_s3.core.s3.upload import Uploader

RUN_BYTES = 8_000_000
"""Stored bytes after which a run ends and the next one begins."""


class ChunkStore:
    """Stores the chunks of one backup, each of them once.

    :param folder: key prefix of the backup's objects.
    :param known: chunks of earlier backups; those of this one are added.
    :param abandoned: of a backup that was killed, which this one makes its own.
    """

    def __init__(
        self,
        uploader: Uploader,
        encoder: Encoder,
        known: KnownChunks,
        *,
        folder: str,
        abandoned: AbandonedChunks | None = None,
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
        self._abandoned = abandoned
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
            if (found := self._known.use(sha256)) is not None:
                chunk, is_first = found
                if is_first:
                    self.chunks += 1
                    self.stored_bytes += chunk.stored_bytes
                return chunk
        if self._abandoned is None:
            return None
        copied = self._abandoned.take(sha256, self.begin_run)
        return None if copied is None else self.claim(copied)

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
        self._chunks: list[Chunk] = []

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
            self._chunks.append(chunk)
            if len(self._run) >= self._store.run_bytes or len(self._chunks) == MOST_CHUNKS:
                self.end_run()
        return chunk

    def end_run(self) -> None:
        """Store the run that was begun; raises as `write`."""
        if self._run:
            self._run += make_trailer(self._chunks)
            self._store.put(self._key, self._run)
            self._run, self._chunks = bytearray(), []
