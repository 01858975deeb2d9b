"""``make bench``: what a backup and a restore take, beside what people run today.

Contenders take turns (A B C, A B C, …), so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.contenders import Contender, Place, backups, restores
from benchmarks.measure import Measured, ceph_requests, measure
from benchmarks.report import Goal, Row, as_json, goals_table, machine, plot, table
from benchmarks.shapes import SHAPES
from lab.postgres import Cluster
from lab.s3 import Ceph

PEERS_BEST = "pg_dump -Fc | zstd -5 -T0 | aws s3 cp"
GOALS = [
    Goal("8 balanced tables", "backup", "ours, 2 jobs, level 1", "read limit", "≤", 1.5),
    Goal("8 balanced tables", "backup", "pg_dump -Fc | aws s3 cp", "ours, 2 jobs, level 1", "≥", 3.5),
    Goal("8 balanced tables", "backup", PEERS_BEST, "ours, 2 jobs, level 1", "≥", 1.7),
    Goal("8 balanced tables", "restore", "aws s3 cp | pg_restore", "ours, 2 jobs", "≥", 1.5),
    Goal("8 balanced tables", "restore", "ours, 2 jobs", "write limit", "≤", 1.1),
    Goal("one big table", "restore", "ours, 2 jobs", "write limit", "≤", 1.15),
    Goal("many small tables", "backup", "ours, 2 jobs, level 1", "read limit", "≤", 1.3),
    *(Goal(shape, "restore", "aws s3 sync, pg_restore -j", "ours, 2 jobs", "≥", 1.0) for shape in SHAPES),
]


class Bench:
    """Measures contenders on one shape."""

    def __init__(self, cluster: Cluster, server: Ceph, shape: str, megabytes: int, work: Path) -> None:
        self._cluster = cluster
        self._server = server
        self._shape = shape
        self._work = work
        self._requests = ceph_requests(server.home)
        self._bucket = server.create_bucket(f"bench-{uuid.uuid4().hex[:12]}")
        self._kept: dict[str, Path] = {}
        self._backup_uri: str | None = None
        print(f"making {shape} ({megabytes} MB)", file=sys.stderr, flush=True)
        SHAPES[shape](cluster, "source", megabytes)
        cluster.psql("vacuum analyze", "source")

    def close(self) -> None:
        self._cluster.drop_database("source")
        for folder in self._kept.values():
            shutil.rmtree(folder)

    def run(self, phase: str, contenders: Sequence[Contender], rounds: int) -> Iterator[Row]:
        runs: dict[str, list[Measured]] = {contender.name: [] for contender in contenders}
        for number in range(rounds):
            for contender in contenders:
                print(f"{self._shape}: {phase} {number + 1}: {contender.name}", file=sys.stderr, flush=True)
                runs[contender.name].append(self._one(phase, contender))
        for contender in contenders:
            yield Row(self._shape, phase, contender.name, runs[contender.name], self._stored(contender))

    def _one(self, phase: str, contender: Contender) -> Measured:
        folder = Path(tempfile.mkdtemp(dir=self._work))
        place = Place(self._cluster, self._server, self._bucket, "source", "target", folder)
        if phase == "restore":
            self._cluster.drop_database("target")
            self._cluster.create_database("target", template="template0")
        elif contender.stores is not None:
            self._delete(contender.stores)
        script, stdin = contender.command(place, self._backup_uri)
        if contender.needs in self._kept:
            script = f"OLDPWD={self._kept[contender.needs]}\n{script}"
        done = measure(script, env=place.environment, folder=folder, requests=self._requests, stdin=stdin)
        if contender.verb is not None and phase == "backup":
            self._backup_uri = self._newest_of_ours()
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
        for key, _ in list(self._keys(prefix)):
            self._server.client().delete_object(Bucket=self._bucket, Key=key)

    def _newest_of_ours(self) -> str:
        (key,) = (key for key, _ in self._keys("ours/") if key.endswith(".json"))
        return f"s3://{self._bucket}/{key}"

    def _stored(self, contender: Contender) -> int:
        return sum(size for _, size in self._keys(contender.stores)) if contender.stores else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000, help="COPY text of a database")
    parser.add_argument("--jobs", type=int, default=2, help="of the limits, and of the peers that have jobs")
    parser.add_argument("--shape", action="append", choices=list(SHAPES), help="all, if none is given")
    parser.add_argument("--major", type=int, default=18, help="of PostgreSQL, server and clients")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    given = parser.parse_args()
    if (reason := Ceph.available()) is not None:
        sys.exit(f"the benchmarks need Ceph, as moto is too slow to measure anything with: {reason}; make ceph")
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as work,
        Ceph() as server,
        Cluster(major=given.major) as cluster,
    ):
        for shape in given.shape or SHAPES:
            bench = Bench(cluster, server, shape, given.megabytes, Path(work))
            for phase, contenders in _phases(given.jobs):
                rows += bench.run(phase, contenders, given.rounds)
            bench.close()
    facts = machine() | {name: getattr(given, name) for name in ("rounds", "megabytes", "jobs", "major")}
    given.out.mkdir(parents=True, exist_ok=True)
    text = f"{goals_table(GOALS, rows)}\n\n{table(rows)}"
    (given.out / "results.md").write_text(text)
    (given.out / "results.json").write_text(as_json(rows, facts))
    plot(rows, given.out)
    print(text)


def _phases(jobs: int) -> Iterator[tuple[str, list[Contender]]]:
    makers: list[tuple[str, Callable[[int], list[Contender]]]] = [("backup", backups), ("restore", restores)]
    for phase, make in makers:
        yield phase, make(jobs)


if __name__ == "__main__":
    main()
