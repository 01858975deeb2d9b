"""``make bench``: what a backup and a restore take, beside what people run today.

Contenders take turns (A B C, A B C, …), so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import datetime
import io
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyrage  # type: ignore[import-untyped]

from benchmarks.contenders import OURS, Contender, Place, backups, restores
from benchmarks.goals import GOALS
from benchmarks.measure import (
    Measured,
    ceph_cpu,
    ceph_requests,
    compression_seconds,
    measure,
    postgres_cpu,
)
from benchmarks.report import machine, plot, plot_levels, say, text
from benchmarks.results import Row, Shape, load, save
from benchmarks.shapes import MANY_FILES, SHAPES, THOROUGH
from benchmarks.sink import Sink
from testkit.postgres import Cluster
from testkit.s3 import Ceph, S3Server

MEMORY = Path("/dev/shm")
MULTIPART_BYTES = 9_000_000  # over boto3's threshold of 8 MiB


class Bench:
    """Measures contenders on one shape."""

    def __init__(
        self, cluster: Cluster, server: Ceph, sink: S3Server, shape: str, given: argparse.Namespace
    ) -> None:
        self._cluster = cluster
        self._server = server
        self._sink = sink
        self._shape = shape
        self._work = Path(given.work)
        self._counters: dict[str, Callable[[], float]] = {
            "requests": ceph_requests(server.home),
            "postgres_cpu_seconds": postgres_cpu(cluster.pid),
            "s3_cpu_seconds": ceph_cpu(server.home),
        }
        self._bucket = server.create_bucket(f"bench-{uuid.uuid4().hex[:12]}")
        # Ceph takes seconds for the first upload, to make its pools.
        server.client().upload_fileobj(io.BytesIO(bytes(MULTIPART_BYTES)), self._bucket, "first")
        self._kept: dict[str, Path] = {}
        self._uris: dict[str, str] = {}
        self._stored: dict[str, list[int]] = {}
        key = pyrage.x25519.Identity.generate()
        self._identity = (str(key), str(key.to_public()))
        say(f"making {shape} ({given.megabytes} MB)")
        SHAPES[shape](cluster, "source", given.megabytes)
        cluster.psql("vacuum analyze", "source")

    def run(self, phase: str, contenders: Sequence[Contender], rounds: int) -> Iterator[Row]:
        runs: dict[str, list[Measured]] = {contender.name: [] for contender in contenders}
        for number in range(rounds):
            for contender in contenders:
                done = self._one(phase, contender)
                say(f"{self._shape}: {phase} {number + 1}: {contender.name}: {done.seconds:.2f} s")
                runs[contender.name].append(done)
        for contender in contenders:
            stored = self._stored.get(contender.name, []) if phase == "backup" else []
            yield Row(phase, contender.name, runs[contender.name], sum(stored), len(stored))

    def dumped(self) -> list[Path]:
        """The files of the read limit."""
        return [path for path in self._kept["read limit"].rglob("*") if path.is_file()]

    def _one(self, phase: str, contender: Contender) -> Measured:
        folder = Path(tempfile.mkdtemp(dir=self._work))
        place = Place(
            self._cluster, self._server, self._sink, self._bucket, "source", "target", folder, self._identity
        )
        if phase == "restore":
            self._cluster.drop_database("target")
            self._cluster.create_database("target", template="template0")
        elif contender.stores is not None:
            self._delete(contender.stores)
        script, stdin = contender.command(place, self._uris.get(contender.needs))
        if contender.needs in self._kept:
            script = f"OLDPWD={self._kept[contender.needs]}\n{script}"
        # What one has left to be written must not slow the next.
        os.sync()
        done = measure(script, env=place.environment, folder=folder, counters=self._counters, stdin=stdin)
        if phase == "backup" and contender.stores is not None:
            stored = dict(self._keys(contender.stores))
            self._stored[contender.name] = list(stored.values())
            for key in stored:
                if key.endswith(".json"):
                    self._uris[contender.name] = f"s3://{self._bucket}/{key}"
        if phase == "backup" and contender.stores is None and contender.name not in self._kept:
            self._kept[contender.name] = folder
        else:
            shutil.rmtree(folder)
        folder.with_suffix(".log").unlink()
        return done

    def _keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        pages = self._server.client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", []):
                yield entry["Key"], entry["Size"]

    def _delete(self, prefix: str) -> None:
        client = self._server.client()
        for key, _ in list(self._keys(prefix)):
            client.delete_object(Bucket=self._bucket, Key=key)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000, help="COPY text of a database")
    parser.add_argument("--jobs", type=int, default=2, help="of the limits, and of the peers that have jobs")
    parser.add_argument("--shape", action="append", choices=list(SHAPES), help="all, if none is given")
    parser.add_argument("--only", help="contenders whose names hold this, and the limits")
    parser.add_argument("--major", type=int, default=18, help="of PostgreSQL, server and clients")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="what is there is added to")
    given = parser.parse_args()
    if (reason := Ceph.available()) is not None:
        sys.exit(f"the benchmarks need Ceph, as moto is too slow to measure anything with: {reason}; make ceph")
    shapes = load(given.out)
    for name in given.shape or SHAPES:
        base = MEMORY if name in MANY_FILES else None
        with (
            tempfile.TemporaryDirectory(prefix="bench-", dir=base) as given.work,
            Ceph() as server,
            Sink() as sink,
            Cluster(major=given.major, base_dir=base) as cluster,
        ):
            shapes[name] = _measure(Bench(cluster, server, sink, name, given), name, given)
        save(shapes, given.out)
        plot(name, shapes[name], given.out)
        if name in THOROUGH:
            plot_levels(shapes[name], given.out)
        (given.out / "results.md").write_text(text(GOALS, shapes))
    print(text(GOALS, shapes))


def _measure(bench: Bench, name: str, given: argparse.Namespace) -> Shape:
    rows = [
        row
        for phase, contenders in _phases(given, thorough=name in THOROUGH)
        for row in bench.run(phase, contenders, given.rounds)
    ]
    dumped = bench.dumped()
    facts = machine() | {
        "files": "tmpfs" if name in MANY_FILES else "disk",
        "date": datetime.date.today().isoformat(),
        "raw_bytes": sum(path.stat().st_size for path in dumped),
        "compression_seconds": compression_seconds(dumped, level=1),
        **{fact: getattr(given, fact) for fact in ("rounds", "megabytes", "jobs", "major")},
    }
    return Shape(facts, rows)


def _phases(given: argparse.Namespace, *, thorough: bool) -> Iterator[tuple[str, list[Contender]]]:
    makers: list[tuple[str, Callable[[int], list[Contender]]]] = [("backup", backups), ("restore", restores)]
    for phase, make in makers:
        chosen = [c for c in make(given.jobs) if (thorough or not c.thorough) and _is_chosen(c, given.only)]
        yield phase, chosen


def _is_chosen(contender: Contender, only: str | None) -> bool:
    return only is None or only in contender.name or "limit" in contender.name or contender.name == OURS


if __name__ == "__main__":
    main()
