"""What a backup that was killed has stored, and how the next one makes it its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.backup.known_chunks import KnownChunks
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.manifest import parse_run_key
from airflow_pg_s3.core.repository.members import Chunk
from airflow_pg_s3.core.repository.repository import Begun, Repository
from airflow_pg_s3.core.repository.run_trailer import LONGEST_TRAILER_BYTES, read_trailer
from airflow_pg_s3.core.s3.parallel import in_parallel
from airflow_pg_s3.core.s3.requests import copy_arguments, get_object


class AbandonedChunks:
    """The chunks of one backup that was killed. Thread-safe, once they are read.

    Nothing may be referred to in its folder: its process may live on, cut off from the server, and then deletes
    what it has stored. So S3 copies a run when one of its chunks comes again; if it cannot, all is stored anew.

    :param begun: the backup that was killed.
    :param extra_args: arguments for the requests that accept them.
    """

    def __init__(self, repository: Repository, begun: Begun, extra_args: Mapping[str, Any], log: Log) -> None:
        self.begun = begun
        self.copied_runs = 0
        self.copied_bytes = 0
        self._repository = repository
        self._client: Any = repository.client
        self._bucket = repository.bucket
        self._base = repository.base(begun.database)
        self._sizes: dict[str, int] = {}
        key_of_source = {name: v for name, v in extra_args.items() if name.startswith("SSECustomer")}
        self._arguments = {
            **copy_arguments(repository.client, extra_args),
            **{f"CopySource{name}": value for name, value in key_of_source.items()},
        }
        self._log = log
        self._known = KnownChunks()
        # Where runs were copied to; None while one is being copied.
        self._copies: dict[str, str | None] = {}
        self._has_failed = False
        self._lock = threading.Lock()

    def read(self, cancel: threading.Event) -> None:
        """Read what each run holds, from its end.

        :raises Cancelled: told to stop.
        :raises StorageError: S3 does not list them.
        """
        for key, size in self._repository.sizes([f"{self._base}{self.begun.backup_id}/"]).items():
            if parse_run_key(name := key.removeprefix(self._base)):
                self._sizes[name] = size
        for chunks in in_parallel(self._read_trailer, sorted(self._sizes), cancel=cancel):
            for chunk in chunks:
                self._known.add(chunk)
        if len(self._known) and not self._has_failed:
            self._log.info(
                "backup %s was killed: of its %d chunks, in %d objects, those are copied that come again",
                self.begun.backup_id,
                len(self._known),
                len(self._sizes),
            )

    def take(self, sha256: bytes, begin_run: Callable[[], str]) -> Chunk | None:
        """Copy the run that holds a chunk, unless that is done; None if the chunk has to be stored anew.

        :param begin_run: gives the copy its key, relative to the manifest's folder.
        """
        with self._lock:
            found = self._known.use(sha256)
            if found is None or self._has_failed:
                return None
            chunk = found[0]
            if is_first := chunk.key not in self._copies:
                # Who asks meanwhile stores its chunk anew, which is rare, instead of waiting.
                self._copies[chunk.key] = None
            copy = self._copies[chunk.key]
        if is_first:
            copy = self._copy(chunk.key, begin_run())
        return None if copy is None else chunk._replace(key=copy)

    def _read_trailer(self, key: str) -> list[Chunk]:
        size = self._sizes[key]
        if self._has_failed or not size:
            return []
        wanted = f"bytes={max(size - LONGEST_TRAILER_BYTES, 0)}-{size - 1}"
        try:
            answer = get_object(self._client, Bucket=self._bucket, Key=self._base + key, Range=wanted)
            return read_trailer(key, size, answer["Body"].read())
        except (ClientError, BotoCoreError, OSError) as error:
            self._give_up(key, error)
            return []

    def _copy(self, key: str, to: str) -> str | None:
        source = {"Bucket": self._bucket, "Key": self._base + key}
        try:
            self._client.copy_object(
                Bucket=self._bucket, Key=self._base + to, CopySource=source, **self._arguments
            )
        except (ClientError, BotoCoreError) as error:
            self._give_up(key, error)
            return None
        with self._lock:
            self._copies[key] = to
            self.copied_runs += 1
            self.copied_bytes += self._sizes[key]
        return to

    def _give_up(self, key: str, error: Exception) -> None:
        with self._lock:
            is_first = not self._has_failed
            self._has_failed = True
        if is_first:
            self._log.warning(
                "backup %s was killed, and its chunks are stored anew, as S3 does not give out or copy %s: %s",
                self.begun.backup_id,
                key,
                error,
            )


def read_abandoned(
    repository: Repository, begun: Begun | None, extra_args: Mapping[str, Any], cancel: threading.Event, log: Log
) -> AbandonedChunks | None:
    """Read what a backup that was killed has stored, if there is one; raises as `AbandonedChunks.read`."""
    if begun is None:
        return None
    abandoned = AbandonedChunks(repository, begun, extra_args, log)
    abandoned.read(cancel)
    return abandoned
