"""Somebody kills a restore's task alone (the OOM killer does): its pipes do not end before their readers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.dumps import COMPRESS, dump
from testkit.postgres import Cluster, installations
from testkit.s3 import S3Server
from testkit.task_process import told
from tests.integration.conftest import only_on
from tests.support.sampling import sample
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
TABLES = ("large", "other")
ROWS = 300_000
FILL = f"""
create table large as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, {ROWS}) as i;
create table other as select i, md5(i::text) || md5((i * 3)::text) as noise from generate_series(1, {ROWS}) as i;
"""
MIB = 1 << 20
# How long a reader has that sees an end: it needs a moment to commit.
WHILE_SECONDS = 1.0
# A task that gets no more than some bytes of each table or archive.
STUCK = """
import sys, time
from airflow_pg_s3.core.s3.download import Downloader
from testkit import task_process as task

def stuck(read, size):
    def pass_on(self, wanted):
        passed = 0
        for piece in read(self, wanted):
            yield piece
            passed += size(piece)
            while passed > int(sys.argv[1]):
                time.sleep(1)
    return pass_on

Downloader.stream = stuck(Downloader.stream, len)
Downloader.ranges = stuck(Downloader.ranges, lambda piece: len(piece[1]))
task.main()
"""

pytestmark = only_on("moto")


@pytest.fixture(scope="module")
def filled(pg16: Cluster) -> Iterator[str]:
    pg16.create_database("killed task")
    pg16.psql(FILL, "killed task")
    yield "killed task"
    pg16.drop_database("killed task")


@pytest.fixture
def uri_of(pg16: Cluster, filled: str, back_up, put, tmp_path: Path) -> Callable[[str, str], str]:
    """(format, compression) → the URI of an archive; ours if the format is `ours`."""

    def make(form: str, compression: str) -> str:
        if form == "ours":
            return back_up(pg16, filled)["uri"]
        return put(COMPRESS[compression](dump(pg16, filled, form, tmp_path)))

    return make


def janitor_of(pids: list[int]) -> int:
    (pid,) = (pid for pid in pids if b"janitor.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return pid


@pytest.mark.parametrize(
    ("form", "compression", "jobs", "megabytes"),
    [
        *sample(
            [("ours", "bare", 2, 1), ("ours", "bare", 2, 4), ("ours", "bare", 2, 8), ("ours", "bare", 1, 4)],
            1,
            "killed task, ours",
        ),
        *sample(
            [("custom", "bare", 1, 3), ("custom", "gzip", 2, 3), ("tar", "bare", 1, 9), ("plain", "zstd", 1, 3)],
            1,
            "killed task, other tools'",
        ),
    ],
)
@pytest.mark.parametrize("speed", sample(["slow", "quick"], 1, "janitor"))
def test_a_table_is_whole_or_empty_when_the_task_alone_was_killed(
    pg16: Cluster,
    s3: S3Server,
    uri_of,
    new_database,
    processes,
    spool_dir: Path,
    form: str,
    compression: str,
    jobs: int,
    megabytes: int,
    speed: str,
) -> None:
    target = new_database(pg16)
    arguments = {
        "backup": uri_of(form, compression),
        "target": {"database": target, "keywords": pg16.keywords},
        "jobs": jobs,
        "spool_dir": str(spool_dir),
        "client_path": [str(folder) for folder in installations().values()],
        "allow_unsafe_psql": True,
    }
    argv = [sys.executable, "-c", STUCK, str(megabytes * MIB), str(arguments["backup"])]
    task = subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert task.stdin
        task.stdin.write(told("restore", arguments, s3) + "\n")
        task.stdin.close()
        wait_until(lambda: is_midway(pg16, target, copies=jobs if form == "ours" else 1))
        janitor = janitor_of(processes())
        if speed == "slow":
            os.kill(janitor, signal.SIGSTOP)
        task.kill()
        task.wait()
        if speed == "slow":
            time.sleep(WHILE_SECONDS)
            os.kill(janitor, signal.SIGCONT)
    finally:
        task.kill()
        task.wait()
    wait_until(lambda: not processes() and not list(spool_dir.iterdir()))
    wait_until(lambda: pg16.psql(f"select count(*) from pg_stat_activity where datname = '{target}'") == "0\n")
    assert [rows_of(pg16, target, table) for table in TABLES] in ([0, 0], [ROWS, 0], [0, ROWS], [ROWS, ROWS])


def is_midway(cluster: Cluster, database: str, copies: int) -> bool:
    """Whether so many tables are loaded at the same time, and none of them gets on."""

    def look() -> list[str]:
        return cluster.psql(
            f"select pid, tuples_processed from pg_stat_progress_copy where datname = '{database}' "
            "and tuples_processed > 0 order by 1"
        ).splitlines()

    seen = look()
    time.sleep(0.2)
    return len(seen) == copies and look() == seen


def rows_of(cluster: Cluster, database: str, table: str) -> int:
    if cluster.psql(f"select to_regclass('{table}') is null", database) == "t\n":
        return 0
    return int(cluster.psql(f"select count(*) from {table}", database))
