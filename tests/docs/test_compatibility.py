"""docs/compatibility.md names what the matrix runs."""

import re
from pathlib import Path

from testkit.postgresql_binaries import MAJORS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/compatibility.md").read_text()
TRIED = re.findall(r"^\| (\d+)\.(\d+) \|", DOCUMENT, re.MULTILINE)


def test_every_major_that_the_matrix_runs_was_tried() -> None:
    assert sorted({int(major) for major, _ in TRIED}) == sorted(MAJORS)


def test_the_oldest_minor_that_ci_takes_of_debian_was_tried() -> None:
    (oldest,) = re.findall(r"^OLDEST_MINOR := (\d+)\.(\d+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert oldest in TRIED


def test_the_tests_that_it_names_are_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", DOCUMENT))
    assert len(named) >= 7
    assert [path for path in named if not (ROOT / path).is_file()] == []
