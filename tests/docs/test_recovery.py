"""docs/recovery.md stays something that a person can read before running it."""

import re
from pathlib import Path

DOCUMENT = (Path(__file__).parents[2] / "docs/recovery.md").read_text()


def test_what_fetches_unpacks_and_checks_a_backup_is_less_than_40_lines():
    (steps,) = re.findall(r"^## 3\. Download\n(.*?)^## 6\. Restore", DOCUMENT, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```bash\n(.*?)^```", steps, re.DOTALL | re.MULTILINE)
    assert 20 < sum(block.count("\n") for block in blocks) < 40
