"""What this package is to reach, as ratios within one run and as limits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.contenders import (
    DISCARDED,
    OUR_RESTORE,
    OURS,
    READ_LIMIT,
    RESTIC_FOLDER,
    RESTIC_STREAM,
    WRITE_LIMIT,
)
from benchmarks.nights import NIGHTS
from benchmarks.results import Row, Shape
from benchmarks.shapes import SHAPES

GIB = 1 << 30
MIB = 1 << 20
BALANCED, DOMINANT, MANY = "8 balanced tables", "one dominant table", "many small tables"
PEERS_BEST = "pg_dump -Fc | zstd -5 -T0 | aws s3 cp"
WHAT_PEOPLE_RUN = "pg_dump -Fc | aws s3 cp"


@dataclass(frozen=True)
class Goal:
    """A figure, and what it should be.

    :param figure: from what was measured of a shape; raises LookupError if that was not all measured.
    """

    what: str
    shape: str
    figure: Callable[[Shape], float]
    sign: str
    limit: float

    def result(self, shapes: Mapping[str, Shape]) -> tuple[float, bool] | None:
        """The figure and whether it is as it should be; None if it was not measured."""
        try:
            figure = self.figure(shapes[self.shape])
        except LookupError:
            return None
        return figure, figure <= self.limit if self.sign == "≤" else figure >= self.limit


def _seconds(row: Row) -> float:
    return row.seconds


def _stored(row: Row) -> float:
    return row.stored_bytes


def ratio(
    shape: str, phase: str, over: str, under: str, sign: str, limit: float, of: Callable[[Row], float] = _seconds
) -> Goal:
    """A goal for the ratio of two contenders."""
    what = f"{phase}: {over} ÷ {under}" + (", bytes stored" if of is _stored else "")
    return Goal(what, shape, lambda found: of(found.row(phase, over)) / of(found.row(phase, under)), sign, limit)


def _of_first_night(shape: Shape) -> float:
    second, first = (shape.row(phase, OURS).stored_bytes for phase in ("second night", "first night"))
    return second / first


def _of_nights() -> Iterator[Goal]:
    unchanged, appended, *_ = NIGHTS
    yield ratio(unchanged, "second night", OURS, READ_LIMIT, "≤", 1.25)
    for shape, limit in ((unchanged, 0.01), (appended, 0.03)):
        yield Goal("our second night ÷ first night, bytes stored", shape, _of_first_night, "≤", limit)
    for shape in NIGHTS:
        for restic in (RESTIC_FOLDER, RESTIC_STREAM):
            yield ratio(shape, "second night", OURS, restic, "≤", 1.1, of=_stored)
            yield ratio(shape, "first night", restic, OURS, "≥", 1.0)
        yield ratio(shape, "second night", RESTIC_STREAM, OURS, "≥", 3.0)
        for restic in ("restic, pg_restore -j", "restic | pg_restore"):
            yield ratio(shape, "restore", restic, OUR_RESTORE, "≥", 1.0)


def _own_cpu_per_gib(shape: Shape) -> float:
    own = statistics.median(run.own["cpu_seconds"] for run in shape.row("backup", OURS).runs)
    return (own - shape.facts["compression_seconds"]) / (shape.facts["raw_bytes"] / GIB)


def _peak_mib(shape: Shape) -> float:
    phases = (("backup", "ours, 4 jobs, level 1"), ("restore", "ours, 4 jobs"))
    return max(run.own["peak_bytes"] for phase, name in phases for run in shape.row(phase, name).runs) / MIB


GOALS = [
    ratio(BALANCED, "backup", OURS, READ_LIMIT, "≤", 1.5),
    ratio(BALANCED, "backup", DISCARDED, READ_LIMIT, "≤", 1.1),
    ratio(BALANCED, "backup", WHAT_PEOPLE_RUN, OURS, "≥", 3.5),
    ratio(BALANCED, "backup", PEERS_BEST, OURS, "≥", 1.7),
    ratio(BALANCED, "restore", "aws s3 cp | pg_restore", OUR_RESTORE, "≥", 1.5),
    ratio(BALANCED, "restore", OUR_RESTORE, WRITE_LIMIT, "≤", 1.0),
    ratio(DOMINANT, "restore", OUR_RESTORE, WRITE_LIMIT, "≤", 1.0),
    *(ratio(shape, "restore", "aws s3 sync, pg_restore -j", OUR_RESTORE, "≥", 1.0) for shape in SHAPES),
    Goal("backup: our CPU apart from zstd and pg_dump, s per GiB", BALANCED, _own_cpu_per_gib, "≤", 3.0),
    Goal("backup, restore: our peak memory at 4 jobs, MiB", BALANCED, _peak_mib, "≤", 256),
    ratio(BALANCED, "backup", OURS, WHAT_PEOPLE_RUN, "≤", 1.0, of=_stored),
    ratio(MANY, "backup", OURS, READ_LIMIT, "≤", 1.3),
    Goal("backup: objects of ours", MANY, lambda found: found.row("backup", OURS).objects, "≤", 100),
    *_of_nights(),
]
