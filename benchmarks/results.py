"""What was measured, in memory and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured

_FILE = "results.json"


@dataclass(frozen=True)
class Row:
    """All runs of one contender on one shape.

    :param stored_bytes: on S3 afterwards, in so many objects; 0 if it leaves nothing there.
    """

    phase: str
    contender: str
    runs: Sequence[Measured]
    stored_bytes: int
    objects: int

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def spread(self) -> float:
        """Slowest less fastest run, in parts of the median."""
        seconds = [run.seconds for run in self.runs]
        return (max(seconds) - min(seconds)) / self.seconds

    def most(self, fact: str) -> int:
        return max(getattr(run, fact) for run in self.runs)

    @property
    def cpu_seconds(self) -> float:
        return statistics.median(run.cpu_seconds for run in self.runs)

    def servers(self, counter: str) -> float:
        return statistics.median(run.servers[counter] for run in self.runs)


@dataclass(frozen=True)
class Shape:
    """All that was measured on one shape, in one run.

    :param facts: that the figures depend on.
    """

    facts: Mapping[str, Any]
    rows: Sequence[Row]

    def row(self, phase: str, contender: str) -> Row:
        """One row; raises LookupError."""
        for row in self.rows:
            if (row.phase, row.contender) == (phase, contender):
                return row
        raise LookupError(contender)


def load(folder: Path) -> dict[str, Shape]:
    """What was measured before."""
    try:
        found = json.loads((folder / _FILE).read_text())
    except FileNotFoundError:
        return {}
    return {
        name: Shape(
            shape["facts"],
            [Row(**row | {"runs": [Measured(**run) for run in row["runs"]]}) for row in shape["rows"]],
        )
        for name, shape in found.items()
    }


def save(shapes: Mapping[str, Shape], folder: Path) -> None:
    """Write all down, for `load` and for whoever wants more than medians."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {name: asdict(shape) for name, shape in shapes.items()}
    (folder / _FILE).write_text(json.dumps(told, indent=1) + "\n")
