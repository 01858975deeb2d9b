"""The servers that contenders share, and one run of a contender on them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyrage  # type: ignore[import-untyped]

from benchmarks.contenders import Contender, Place
from benchmarks.measure import Measured, ceph_cpu, ceph_requests, measure, postgres_cpu
from testkit.postgres import Cluster
from testkit.s3 import Ceph, S3Server

SOURCE, TARGET = "source", "target"
MULTIPART_BYTES = 9_000_000  # over boto3's threshold of 8 MiB


class Stage:
    """A PostgreSQL server, an S3 server with a bucket, and a folder for what contenders keep on disk."""

    def __init__(self, cluster: Cluster, server: Ceph, sink: S3Server, work: Path) -> None:
        self.cluster = cluster
        self._work = work
        self._server = server
        self._sink = sink
        self._counters: dict[str, Callable[[], float]] = {
            "requests": ceph_requests(server.home),
            "postgres_cpu_seconds": postgres_cpu(cluster.pid),
            "s3_cpu_seconds": ceph_cpu(server.home),
        }
        self._bucket = server.create_bucket(f"bench-{uuid.uuid4().hex[:12]}")
        # Ceph takes seconds for the first upload, to make its pools.
        server.client().upload_fileobj(io.BytesIO(bytes(MULTIPART_BYTES)), self._bucket, "first")
        key = pyrage.x25519.Identity.generate()
        self._identity = (str(key), str(key.to_public()))

    def run(
        self, contender: Contender, *, backup_uri: str | None = None, kept: Path | None = None
    ) -> tuple[Measured, Path]:
        """Run a contender; return the folder that it ran in, too.

        :param backup_uri: what a restore of ours reads.
        :param kept: `$OLDPWD`: the folder that its backup ran in.
        """
        folder = Path(tempfile.mkdtemp(dir=self._work))
        place = self._place(folder, contender)
        script, stdin = contender.command(place, backup_uri)
        if kept is not None:
            script = f"OLDPWD={kept}\n{script}"
        # What one has left to be written must not slow the next.
        os.sync()
        done = measure(script, env=place.environment, folder=folder, counters=self._counters, stdin=stdin)
        folder.with_suffix(".log").unlink()
        return done, folder

    def empty_target(self) -> None:
        """Make the database that restores fill."""
        self.cluster.drop_database(TARGET)
        self.cluster.create_database(TARGET, template="template0")

    def prepare(self, contender: Contender) -> None:
        """Empty the folder in which a contender keeps what it needs the next night, and let it prepare it."""
        state = self._state(contender)
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        place = self._place(state, contender)
        script = f"{place.names}\n{contender.prepare}"
        subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=place.environment, cwd=state, check=True)

    def _state(self, contender: Contender) -> Path:
        return self._work / f"state-{(contender.needs or contender.name).encode().hex()}"

    def stored(self, contender: Contender) -> dict[str, int]:
        """The sizes of what a contender has stored: objects by their keys, or files by their names."""
        if contender.stores is None:
            files = (self._state(contender) / "stored").rglob("*")
            return {str(file): file.stat().st_size for file in files if file.is_file()}
        pages = self._server.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self._bucket, Prefix=contender.stores)
        return {entry["Key"]: entry["Size"] for page in found for entry in page.get("Contents", [])}

    def newest_backup(self, contender: Contender) -> str | None:
        """URI of the newest backup of ours; None if there is none."""
        return next((f"s3://{self._bucket}/{key}" for key in self._manifests(contender)), None)

    def _manifests(self, contender: Contender) -> Iterator[str]:
        yield from sorted((key for key in self.stored(contender) if key.endswith(".json")), reverse=True)

    def delete(self, contender: Contender) -> None:
        """Delete what a contender has stored on S3."""
        client = self._server.client()
        for key in self.stored(contender):
            client.delete_object(Bucket=self._bucket, Key=key)

    def _place(self, folder: Path, contender: Contender) -> Place:
        return Place(
            cluster=self.cluster,
            server=self._server,
            sink=self._sink,
            bucket=self._bucket,
            database=SOURCE,
            target=TARGET,
            folder=folder,
            state=self._state(contender),
            identity=self._identity,
        )
