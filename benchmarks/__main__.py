"""``make bench``: what a backup and a restore take, beside what people run today.

Contenders take turns (A B C, A B C, …), so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.bench import Bench, NightBench
from benchmarks.contenders import OURS, Contender, backups, restores
from benchmarks.goals import GOALS
from benchmarks.measure import compression_seconds
from benchmarks.nights import DAYS, MONTH, NIGHTS, WORKING
from benchmarks.report import machine, plot, plot_levels, plot_month, say, text
from benchmarks.results import Shape, load, save
from benchmarks.shapes import MANY_FILES, SHAPES, THOROUGH
from benchmarks.sink import Sink
from benchmarks.stage import SOURCE, Stage
from testkit.postgres import Cluster
from testkit.s3 import Ceph

MEMORY = Path("/dev/shm")
ALL = [*SHAPES, *NIGHTS, MONTH]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000, help="COPY text of a database")
    parser.add_argument("--jobs", type=int, default=2, help="of the limits, and of the peers that have jobs")
    parser.add_argument("--shape", action="append", choices=ALL, help="all, if none is given")
    parser.add_argument("--days", type=int, default=DAYS, help=f"of the shape {MONTH!r}")
    parser.add_argument("--only", help="contenders whose names hold this, and the limits")
    parser.add_argument("--major", type=int, default=18, help="of PostgreSQL, server and clients")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="what is there is added to")
    given = parser.parse_args()
    if (reason := Ceph.available()) is not None:
        sys.exit(f"the benchmarks need Ceph, as moto is too slow to measure anything with: {reason}; make ceph")
    shapes = load(given.out)
    for name in given.shape or ALL:
        base = MEMORY if name in MANY_FILES else None
        with (
            tempfile.TemporaryDirectory(prefix="bench-", dir=base) as work,
            Ceph() as server,
            Sink() as sink,
            Cluster(major=given.major, base_dir=base) as cluster,
        ):
            shapes[name] = _measure(Stage(cluster, server, sink, Path(work)), name, given)
        save(shapes, given.out)
        (plot_month if name == MONTH else plot)(name, shapes[name], given.out)
        if name in THOROUGH:
            plot_levels(shapes[name], given.out)
        (given.out / "results.md").write_text(text(GOALS, shapes))
    print(text(GOALS, shapes))


def _measure(stage: Stage, name: str, given: argparse.Namespace) -> Shape:
    say(f"making {name} ({given.megabytes} MB)")
    night = NIGHTS.get(name, WORKING if name == MONTH else None)
    create = SHAPES[name] if night is None else night.create
    create(stage.cluster, SOURCE, given.megabytes)
    # After a VACUUM, rows that are appended would fill the gaps of all pages, as none has grown page by page.
    stage.cluster.psql("vacuum analyze" if night is None else "analyze", SOURCE)
    if night is None:
        bench = Bench(stage, name)
        phases = _phases(given, thorough=name in THOROUGH)
        rows = [row for phase, contenders in phases for row in bench.run(phase, contenders, given.rounds)]
        dumped = bench.dumped()
    else:
        nights = NightBench(stage, name, given.megabytes, given.jobs)
        rows = nights.month(night, given.days) if name == MONTH else nights.second_nights(night, given.rounds)
        dumped = nights.dumped()
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
