"""How many faults were tried, of which kind, and what came of them; printed when all tests have run."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from tests.support.sampling import SEED, TORTURE

SINS = ("false completes", "lost backups", "leftovers", "undetected corruptions", "secrets shown")


class Tally:
    """Counts cases by what was done, what went wrong, and how it ended; and what must never come of it."""

    def __init__(self) -> None:
        self._ends: Counter[tuple[str, str, str]] = Counter()
        self._sins: Counter[str] = Counter()

    def count(self, what: str, fault: str, end: str) -> None:
        self._ends[what, fault, end] += 1

    def assert_none(self, sin: str, found: Collection[object], case: object) -> None:
        """Count what should not be, and fail if there is any."""
        assert sin in SINS
        self._sins[sin] += len(found)
        assert not found, f"{case}: {sin}: {found}"

    def merge(self, other: "Tally") -> None:
        self._ends += other._ends
        self._sins += other._sins

    def __bool__(self) -> bool:
        return bool(self._ends)

    def lines(self) -> Iterator[str]:
        yield f"seed {SEED}, {'all cases' if TORTURE else 'a sample'}"
        kinds = sorted({(what, fault) for what, fault, _ in self._ends})
        for what, fault in kinds:
            ends = {end: n for (*kind, end), n in sorted(self._ends.items()) if kind == [what, fault]}
            told = ", ".join(f"{count} {end}" for end, count in ends.items())
            yield f"{sum(ends.values()):6} {what}: {fault}: {told}"
        yield f"{self._ends.total():6} cases"
        yield "".join(f"{self._sins[sin]:6} {sin}\n" for sin in SINS).rstrip("\n")


TALLY = Tally()


def each(cases: Iterable[Any], check: Callable[[Any], None]) -> None:
    """Go through all cases, also after one that fails."""
    failures = []
    for case in cases:
        try:
            check(case)
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)
