"""Where chunks lie that are stored already."""

from __future__ import annotations

from array import array

from airflow_pg_s3.core.repository.members import DIGEST_BYTES, Chunk


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
