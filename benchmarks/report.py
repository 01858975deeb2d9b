"""What was measured, as a table, as JSON and as plots."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured

MB = 1_000_000
COLUMNS = (
    "contender", "seconds (median)", "spread", "÷ limit", "CPU s", "peak memory MB", "peak disk MB", "stored MB",
    "S3 requests",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """All runs of one contender on one shape.

    :param stored_bytes: on S3 afterwards; 0 if it leaves nothing there.
    """

    shape: str
    phase: str
    contender: str
    runs: Sequence[Measured]
    stored_bytes: int

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


@dataclass(frozen=True)
class Goal:
    """A ratio of two contenders' medians, and what it should be."""

    shape: str
    phase: str
    over: str
    under: str
    sign: str
    limit: float

    def result(self, rows: Iterable[Row]) -> tuple[float, bool] | None:
        """The ratio and whether it is as it should be; None if one of the two was not measured."""
        found = {(row.shape, row.phase, row.contender): row.seconds for row in rows}
        over, under = (found.get((self.shape, self.phase, name)) for name in (self.over, self.under))
        if over is None or under is None:
            return None
        ratio = over / under
        return ratio, ratio <= self.limit if self.sign == "≤" else ratio >= self.limit


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line a contender, with its ratio to the first of its shape and phase."""
    lines = []
    for shape, phase in dict.fromkeys((row.shape, row.phase) for row in rows):
        group = [row for row in rows if (row.shape, row.phase) == (shape, phase)]
        lines += [f"### {phase}, {shape}", "", _line(COLUMNS), "|---" + "|---:" * 8 + "|"]
        for row in group:
            cells = (
                row.contender,
                f"{row.seconds:.2f}",
                f"{100 * row.spread:.0f} %",
                f"{row.seconds / group[0].seconds:.2f}",
                f"{row.cpu_seconds:.1f}",
                f"{row.most('peak_rss_bytes') / MB:.0f}",
                f"{row.most('peak_disk_bytes') / MB:.0f}",
                f"{row.stored_bytes / MB:.1f}",
                str(row.most("requests")),
            )
            lines.append(_line(cells))
        lines.append("")
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def goals_table(goals: Sequence[Goal], rows: Sequence[Row]) -> str:
    """Markdown: each goal that could be measured, and whether it was met."""
    lines = ["| goal | measured | |", "|---|---:|---|"]
    for goal in goals:
        found = goal.result(rows)
        if found is not None:
            ratio, is_met = found
            what = f"{goal.phase}, {goal.shape}: {goal.over} ÷ {goal.under} {goal.sign} {goal.limit:g}"
            lines.append(_line((what, f"{ratio:.2f}", "met" if is_met else "**missed**")))
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Facts that the figures depend on."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in facts if line.startswith("model name")), "unknown")
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    ceph = subprocess.run(["ceph-mon", "--version"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu,
        "cores": len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*"))),
        "memory_gib": round(memory / (1 << 20), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "s3": ceph,
    }


def as_json(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    measured = [asdict(row) | {"median_seconds": row.seconds, "spread": row.spread} for row in rows]
    return json.dumps({"machine": facts, "rows": measured}, indent=1) + "\n"


def plot(rows: Sequence[Row], folder: Path) -> None:
    """A picture for each shape and phase: a bar a contender, a line for its fastest and slowest run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    for shape, phase in dict.fromkeys((row.shape, row.phase) for row in rows):
        group = [row for row in rows if (row.shape, row.phase) == (shape, phase)][::-1]
        figure, axes = pyplot.subplots(figsize=(9, 0.45 * len(group) + 1.2))
        medians = [row.seconds for row in group]
        errors = [
            [row.seconds - min(run.seconds for run in row.runs) for row in group],
            [max(run.seconds for run in row.runs) - row.seconds for row in group],
        ]
        colors = ["#2a6f97" if row.contender.startswith("ours") else "#a9a9a9" for row in group]
        axes.barh([row.contender for row in group], medians, xerr=errors, color=colors)
        axes.set_xlabel("seconds")
        axes.set_title(f"{phase}, {shape}")
        figure.tight_layout()
        figure.savefig(folder / f"{phase}-{shape}.png".replace(" ", "-"), dpi=110)
        pyplot.close(figure)
