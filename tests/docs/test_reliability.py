"""docs/reliability.md names tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = (TESTS.parent / "docs/reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:unit|integration|system)/[\w/]+\.py)(?:::(\w+))?`", DOCUMENT)))


def test_the_document_names_tests():
    assert len(NAMED) > 30
    for line in DOCUMENT.splitlines():
        if line.startswith("| ") and line != "| promise | tested by |":
            assert "`unit/" in line or "`integration/" in line or "`system/" in line, line


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda value: value.rpartition("/")[2] or "all")
def test_what_holds_a_promise_exists(file: str, test: str):
    text = (TESTS / file).read_text()
    assert f"def {test}(" in text if test else "def test_" in text
