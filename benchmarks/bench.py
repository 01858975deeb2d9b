"""Measures contenders on one shape, in turns."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contenders import OURS, READ_LIMIT, Contender, of_mornings, of_nights
from benchmarks.measure import Measured
from benchmarks.nights import Night
from benchmarks.report import say
from benchmarks.results import Row
from benchmarks.stage import SOURCE, Stage


class Bench:
    """Measures contenders on one shape."""

    def __init__(self, stage: Stage, shape: str) -> None:
        self._stage = stage
        self._shape = shape
        self._kept: dict[str, Path] = {}
        self._uris: dict[str, str | None] = {}
        self._stored: dict[str, list[int]] = {}

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
        return files_of(self._kept[READ_LIMIT])

    def _one(self, phase: str, contender: Contender) -> Measured:
        if phase == "restore":
            self._stage.empty_target()
        elif contender.stores is not None:
            self._stage.delete(contender)
        done, folder = self._stage.run(
            contender, backup_uri=self._uris.get(contender.needs), kept=self._kept.get(contender.needs)
        )
        if phase == "backup" and contender.stores is not None:
            self._stored[contender.name] = list(self._stage.stored(contender).values())
            self._uris[contender.name] = self._stage.newest_backup(contender)
        if phase == "backup" and contender.stores is None and contender.name not in self._kept:
            self._kept[contender.name] = folder
        else:
            shutil.rmtree(folder)
        return done


class NightBench:
    """Measures contenders that store only what is new, one night after the other."""

    def __init__(self, stage: Stage, shape: str, megabytes: int, jobs: int) -> None:
        self._stage = stage
        self._shape = shape
        self._megabytes = megabytes
        self._nights = of_nights(jobs)
        self._mornings = of_mornings(jobs)
        self._before: dict[str, dict[str, int]] = {}
        self._rows: dict[tuple[str, str], list[tuple[Measured, int, int]]] = {}
        self._kept: Path | None = None

    def second_nights(self, night: Night, rounds: int) -> list[Row]:
        """A first night, a day, a second night and a restore of it, so many times."""
        for number in range(1, rounds + 1):
            self._begin_anew()
            self._back_up("first night")
            self._change(night, number)
            self._back_up("second night")
            self._restore()
        return self._medians()

    def month(self, night: Night, days: int) -> list[Row]:
        """A first night, then days and nights, and a restore of the last of them."""
        self._begin_anew()
        self._back_up("night 0")
        for day in range(1, days + 1):
            self._change(night, day)
            self._back_up(f"night {day}")
        self._restore()
        return self._medians()

    def dumped(self) -> list[Path]:
        """The files of the read limit, of the last night."""
        assert self._kept is not None
        return files_of(self._kept)

    def _begin_anew(self) -> None:
        for contender in self._nights:
            if contender.stores is not None:
                self._stage.delete(contender)
            self._stage.prepare(contender)
            self._before[contender.name] = self._stage.stored(contender)

    def _change(self, night: Night, day: int) -> None:
        night.change(self._stage.cluster, SOURCE, self._megabytes, day)
        self._stage.cluster.psql("checkpoint", SOURCE)

    def _back_up(self, phase: str) -> None:
        for contender in self._nights:
            done, folder = self._stage.run(contender)
            stored = self._stage.stored(contender)
            new = stored.keys() - self._before[contender.name].keys()
            self._before[contender.name] = stored
            if contender.name == READ_LIMIT:
                self._keep(folder)
            else:
                shutil.rmtree(folder)
            self._record(phase, contender, done, sum(stored[key] for key in new), len(new))

    def _restore(self) -> None:
        ours = next(contender for contender in self._nights if contender.name == OURS)
        uri = self._stage.newest_backup(ours)
        for contender in self._mornings:
            self._stage.empty_target()
            done, folder = self._stage.run(contender, backup_uri=uri, kept=self._kept)
            shutil.rmtree(folder)
            self._record("restore", contender, done, 0, 0)

    def _keep(self, folder: Path) -> None:
        if self._kept is not None:
            shutil.rmtree(self._kept)
        self._kept = folder

    def _record(self, phase: str, contender: Contender, done: Measured, new_bytes: int, objects: int) -> None:
        say(f"{self._shape}: {phase}: {contender.name}: {done.seconds:.2f} s, {new_bytes / 1e6:.1f} MB")
        self._rows.setdefault((phase, contender.name), []).append((done, new_bytes, objects))

    def _medians(self) -> list[Row]:
        return [
            Row(
                phase,
                name,
                [done for done, _, _ in runs],
                int(statistics.median(new for _, new, _ in runs)),
                int(statistics.median(objects for _, _, objects in runs)),
            )
            for (phase, name), runs in self._rows.items()
        ]


def files_of(folder: Path) -> list[Path]:
    """All files in a folder, and in those in it."""
    return [path for path in folder.rglob("*") if path.is_file()]
