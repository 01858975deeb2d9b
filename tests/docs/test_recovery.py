"""docs/recovery.md stays something that a person can read before running it."""

import re
from pathlib import Path

from airflow_pg_s3.plugin.recovery import BY_HAND

DOCUMENT = (Path(__file__).parents[2] / "docs/recovery.md").read_text()


def test_what_fetches_unpacks_and_checks_a_backup_is_less_than_40_lines():
    (steps,) = re.findall(r"^## 3\. Download\n(.*?)^## 6\. Restore", DOCUMENT, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```bash\n(.*?)^```", steps, re.DOTALL | re.MULTILINE)
    assert 20 < sum(block.count("\n") for block in blocks) < 40


def test_the_page_shows_the_same_commands():
    (steps,) = re.findall(r"^(## 3\. Download\n.*?)^## One table alone", DOCUMENT, re.DOTALL | re.MULTILINE)
    parts = re.findall(r"^## ([^\n]*)|^```bash\n(.*?)^```", steps, re.DOTALL | re.MULTILINE)
    shown = "".join(f"# {title}\n" if title else f"{block}\n" for title, block in parts)
    assert BY_HAND.read_text() == shown.rstrip() + "\n"
