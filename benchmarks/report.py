"""What was measured, as tables and as plots."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal
from benchmarks.nights import MONTH
from benchmarks.results import Row, Shape

MB = 1_000_000
COLUMNS = (
    "seconds (median)", "spread", "÷ limit", "CPU s", "PostgreSQL's CPU s", "S3's CPU s", "peak memory MB",
    "peak disk MB", "stored MB", "S3 requests",
)  # fmt: skip


def text(goals: Sequence[Goal], shapes: Mapping[str, Shape]) -> str:
    """Markdown: the goals, then a table a shape and phase."""
    return "\n".join([*_goals(goals, shapes), *(line for name in shapes for line in _tables(name, shapes[name]))])


def _goals(goals: Sequence[Goal], shapes: Mapping[str, Shape]) -> Iterator[str]:
    yield from ("# Figures", "", "Made by `make bench`; what they mean: [README](README.md).", "", "## Goals", "")
    yield from ("| goal | measured | |", "|---|---:|---|")
    for goal in goals:
        found = goal.result(shapes)
        if found is not None:
            figure, is_met = found
            what = f"{goal.shape}, {goal.what} {goal.sign} {goal.limit:g}"
            yield line((what, f"{figure:.2f}", "met" if is_met else "**missed**"))


def _tables(name: str, shape: Shape) -> Iterator[str]:
    """A line a contender, with its ratio to the first of its phase."""
    facts = shape.facts
    yield from (
        "",
        f"## {name[:1].upper()}{name[1:]}",
        "",
        f"{facts['raw_bytes'] / MB:.0f} MB as pg_dump writes them, {facts['rounds']} rounds, PostgreSQL "
        f"{facts['major']}, {facts['date']}; {facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB, "
        f"Linux {facts['kernel']}, databases and spools on {facts['files']}; {facts['s3']}.",
    )
    if name == MONTH:
        yield from _month_table(shape)
        return
    for phase in dict.fromkeys(row.phase for row in shape.rows):
        rows = [row for row in shape.rows if row.phase == phase]
        yield from ("", line((phase, *COLUMNS)), "|---" + "|---:" * len(COLUMNS) + "|")
        for row in rows:
            cells = (
                row.contender,
                f"{row.seconds:.2f}",
                f"{100 * row.spread:.0f} %",
                f"{row.seconds / rows[0].seconds:.2f}",
                f"{row.cpu_seconds:.1f}",
                f"{row.servers('postgres_cpu_seconds'):.1f}",
                f"{row.servers('s3_cpu_seconds'):.1f}",
                f"{row.most('peak_rss_bytes') / MB:.0f}",
                f"{row.most('peak_disk_bytes') / MB:.0f}",
                f"{row.stored_bytes / MB:.1f}" if row.stored_bytes else "",
                f"{row.servers('requests'):.0f}",
            )
            yield line(cells)


def _month_table(shape: Shape) -> Iterator[str]:
    yield from ("", line(("nights", "first: seconds", "MB stored", "others: seconds (median)", "MB stored, all")))
    yield "|---" + "|---:" * 4 + "|"
    for contender, (first, *others) in _nights_of(shape).items():
        cells = (
            f"{first.seconds:.1f}",
            f"{first.stored_bytes / MB:.1f}",
            f"{statistics.median(row.seconds for row in others):.1f}",
            f"{sum(row.stored_bytes for row in others) / MB:.1f}",
        )
        yield line((contender, *cells))
    yield from ("", line(("restore of the last", "seconds")), "|---|---:|")
    for row in shape.rows:
        if row.phase == "restore":
            yield line((row.contender, f"{row.seconds:.1f}"))


def _nights_of(shape: Shape) -> dict[str, list[Row]]:
    """The nights of each contender, in their order."""
    found: dict[str, list[Row]] = {}
    for row in shape.rows:
        if row.phase.startswith("night "):
            found.setdefault(row.contender, []).append(row)
    return found


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


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


def plot(name: str, shape: Shape, folder: Path) -> None:
    """A picture for each phase: a bar a contender, a line from its fastest to its slowest run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    for phase in dict.fromkeys(row.phase for row in shape.rows):
        rows = [row for row in shape.rows if row.phase == phase][::-1]
        figure, axes = pyplot.subplots(figsize=(9, 0.45 * len(rows) + 1.2))
        medians = [row.seconds for row in rows]
        errors = [
            [row.seconds - min(run.seconds for run in row.runs) for row in rows],
            [max(run.seconds for run in row.runs) - row.seconds for row in rows],
        ]
        colors = ["#2a6f97" if row.contender.startswith("ours") else "#a9a9a9" for row in rows]
        axes.barh([row.contender for row in rows], medians, xerr=errors, color=colors)
        axes.set_xlabel("seconds")
        axes.set_title(f"{phase}, {name}")
        figure.tight_layout()
        figure.savefig(
            folder / f"{phase}-{name}.png".replace(", ", "-").replace(" ", "-").replace("%", "percent"), dpi=110
        )
        pyplot.close(figure)


def plot_month(name: str, shape: Shape, folder: Path) -> None:
    """A picture of what has been stored by each night: a line a contender that stores."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    for contender, nights in _nights_of(shape).items():
        totals = list(accumulate(night.stored_bytes / MB for night in nights))
        if totals[0]:
            color = "#2a6f97" if contender.startswith("ours") else None
            axes.plot(totals, label=contender, color=color, linewidth=2.5 if color else 1.2)
    axes.set_xlabel("night")
    axes.set_ylabel("MB stored by then")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.set_title(name)
    figure.tight_layout()
    figure.savefig(folder / f"{name}.png".replace(" ", "-"), dpi=110)
    pyplot.close(figure)


def plot_levels(shape: Shape, folder: Path) -> None:
    """A picture of the trade between seconds and bytes: a point a contender that stores."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for row in shape.rows:
        if row.phase == "backup" and row.stored_bytes:
            color = "#2a6f97" if row.contender.startswith("ours") else "#a9a9a9"
            axes.scatter(row.seconds, row.stored_bytes / MB, color=color)
            axes.annotate(row.contender, (row.seconds, row.stored_bytes / MB), fontsize=8)
    axes.set_xlabel("seconds")
    axes.set_ylabel("MB stored")
    figure.tight_layout()
    figure.savefig(folder / "levels.png", dpi=110)
    pyplot.close(figure)
