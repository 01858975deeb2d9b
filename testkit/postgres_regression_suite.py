"""The database that PostgreSQL's own regression suite leaves behind, which uses every feature.

The suite is downloaded as Debian's source package, with a private apt state: it changes nothing in the system, and
needs no root. It runs with psql and without regress.so. So its tests of C code fail, which does not matter, as
only the database is wanted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testkit.postgres import Cluster

PACKAGE = "postgresql-15"
INSIDE = "src/test/regress"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SECONDS_PER_TEST = 300


def create_regression_database(cluster: Cluster, cache_dir: Path) -> None:
    """Create the database "regression"; the first call downloads the suite (23 MB) to `cache_dir`, which is kept.

    This takes about 20 s on two cores. The suite also creates roles and a tablespace: use a server of its own,
    with `settings={"allow_in_place_tablespaces": "on"}`. It is PostgreSQL 15's; on newer servers more of its tests
    fail.
    """
    suite = fetch_suite(cache_dir)
    cluster.create_database("regression", template="template0", encoding="UTF8", locale="C")
    scratch = cluster.data_dir / "regression"  # server and psql write their files here
    shutil.copytree(suite, scratch)
    for path in (scratch, *scratch.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    env = cluster.client_env("regression") | {
        "PGTZ": "America/Los_Angeles",
        "PGDATESTYLE": "Postgres, MDY",
        "PG_ABS_SRCDIR": str(scratch),
        "PG_ABS_BUILDDIR": str(scratch),
        "PG_LIBDIR": str(scratch),
        "PG_DLSUFFIX": ".so",
    }

    def run(test: str) -> None:
        psql = [str(cluster.pg_bin / "psql"), "-X", "-q", "-f", f"sql/{test}.sql"]
        subprocess.run(psql, cwd=scratch, env=env, capture_output=True, timeout=SECONDS_PER_TEST)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for group in _schedule(scratch):
            list(pool.map(run, group))
    # A restore refreshes materialized views, so that one that is out of date would differ afterwards.
    cluster.psql(
        "SELECT format('REFRESH MATERIALIZED VIEW %s', oid::regclass) FROM pg_class "
        "WHERE relkind = 'm' AND relispopulated \\gexec",
        "regression",
    )


def _schedule(suite: Path) -> list[list[str]]:
    """Return groups of tests that can run at the same time."""
    lines = (suite / "parallel_schedule").read_text().splitlines()
    return [line.split()[1:] for line in lines if line.startswith("test:")]


def fetch_suite(cache_dir: Path) -> Path:
    """Return the suite's directory in the cache; it is downloaded if it is missing."""
    suite = cache_dir.absolute() / "regress"
    if suite.exists():
        return suite
    state = cache_dir.absolute() / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "sources.list").write_text(f"deb-src [signed-by={KEYRING}] {_archive()} main\n")
    options = {
        "Dir::Etc::sourcelist": f"{state}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": f"{state}/lists",
        "Dir::Cache": f"{state}/cache",
        "APT::Sandbox::User": "root",
    }
    apt_get = ["apt-get", "-qq", *(word for option in options.items() for word in ("-o", "=".join(option)))]
    subprocess.run([*apt_get, "update"], check=True)
    subprocess.run([*apt_get, "source", "--download-only", "--only-source", PACKAGE], cwd=state, check=True)
    (tarball,) = state.glob("*.orig.tar.*")
    with tarfile.open(tarball) as archive:
        members = [member for member in archive if f"/{INSIDE}/" in member.name]
        archive.extractall(state, members, filter="data")
    (unpacked,) = state.glob(f"postgresql-*/{INSIDE}")
    unpacked.rename(suite)
    shutil.rmtree(state)
    return suite


def _archive() -> str:
    """Return the mirror that this machine uses, and its release: "http://… bookworm"."""
    argv = ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"]
    first, *_ = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    return first
