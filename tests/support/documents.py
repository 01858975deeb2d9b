"""What documents show: their code blocks, and the commands in them, run."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from airflow.dag_processing.bundles.manager import DagBundlesManager

from tests.support.airflow_versions import DagBag, sync_bag_to_db

ROOT = Path(__file__).parents[2]


def blocks(document: str, language: str) -> list[str]:
    """Return the code blocks of a language, in their order; `document` is a path in the repository."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_bash(document: str, edit: Callable[[str], str], environment: Mapping[str, str], folder: Path) -> str:
    """Run all bash blocks of a document as one script, up to the first failure; return what it has written."""
    script = "set -euo pipefail\n" + edit("\n".join(blocks(document, "bash")))
    # `python`, `pg-s3` are this environment's.
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        ["bash", "-x", "-c", script],
        env={**environment, "PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def parse_dags(document: str, folder: Path, edit: Callable[[str], str] = str) -> DagBag:
    """Parse the Python blocks of a document, each as a DAG file of its own."""
    for number, snippet in enumerate(blocks(document, "python")):
        (folder / f"dag_{number}.py").write_text(edit(snippet))
    bag = DagBag(folder)
    assert bag.import_errors == {}
    return bag


def run_dags(document: str, bag: DagBag, bundle: str) -> None:
    """Run what the document runs by `airflow dags test`, in this process; each run must succeed."""
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, bundle, None)
    lines = [line for line in (ROOT / document).read_text().splitlines() if line.startswith("    ")]
    commands = re.findall(r"airflow dags test (\w+)", "\n".join(lines))
    assert commands
    for dag_id in commands:
        assert bag.dags[dag_id].test(logical_date=None).state == "success"
