"""Fuzzes the functions in testkit/fuzz_targets.py with atheris, guided by the coverage of branches.

``python -m testkit.fuzz_runner SECONDS`` fuzzes each function for that long, and stops at the first that fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["airflow_pg_s3"]):
    from testkit.fuzz_targets import SEEDS, TARGETS


def main() -> None:
    """Fuzz all functions, each in a process of its own, as atheris never returns."""
    seconds = sys.argv[1]
    if len(sys.argv) > 2:
        return _fuzz(sys.argv[2], seconds)
    for name in TARGETS:
        done = subprocess.run(
            [sys.executable, "-m", "testkit.fuzz_runner", seconds, name], capture_output=True, text=True
        )
        runs = next((line for line in done.stderr.splitlines() if line.startswith("Done ")), "no result")
        print(f"fuzzing {name}: {runs.lower()}", flush=True)
        if done.returncode:
            sys.exit(f"{name} has failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return None


def _fuzz(name: str, seconds: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS.get(name, [])):
            Path(folder, str(number)).write_bytes(seed)
        limits = [
            f"-max_total_time={seconds}",
            "-max_len=20000",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={folder}/",
        ]
        atheris.Setup([name, *limits, folder], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
