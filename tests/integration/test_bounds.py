"""Memory is flat and the spool is bounded, whatever the size of the database and the speed of S3."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_pg_s3.core import reporting
from airflow_pg_s3.core.backup.backup import back_up
from airflow_pg_s3.core.backup.pg_dump import Backpressure
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.backup.spool import READ_BYTES
from airflow_pg_s3.core.postgres import connection as postgres_connection
from airflow_pg_s3.core.repository.repository import Repository
from testkit.databases import create_bulk_database, create_wide_table
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.conftest import S3_SERVERS
from tests.integration.conftest import only_on, processes_in
from tests.support.sampling import TORTURE

MIB = 1 << 20
JOBS = 4
# Of 25 MB each, beside 200 MB: 4 GB together, or 400 MB.
LARGE_TABLES = 152 if TORTURE else 8
MEASURE = """
import json, os, sys, threading, time
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from airflow_pg_s3.hooks import connections

def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))

repository, database, jobs = sys.argv[1:4]
connections.s3_client("s3")[0].list_buckets()
connections.postgres_parameters("pg", database).connect().close()
idle = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # resets VmHWM, proc(5)
common = dict(postgres_conn_id="pg", aws_conn_id="s3", jobs=int(jobs))
done = PgS3BackupOperator(task_id="b", repository=repository, database=database, **common).execute({})
backup_peak = memory("VmHWM") - idle
restore_peak = None
if "--restore" in sys.argv:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    PgS3RestoreOperator(task_id="r", backup=done["uri"], database=database + "_copy", **common).execute({})
    restore_peak = memory("VmHWM") - idle
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
verified = PgS3VerifyOperator(task_id="v", backup=done["uri"], **common).execute({})
verify_peak = memory("VmHWM") - idle
ratio = verified["compare_seconds"] / verified["restore_seconds"]
peaks = {"backup": backup_peak, "restore": restore_peak, "verify": verify_peak}
print(json.dumps({"raw": done["raw_bytes"], "idle": idle, "compare_to_restore": ratio, **peaks}))
"""


@pytest.fixture(scope="module")
def bulk(pg18: Cluster) -> Iterator[Cluster]:
    create_bulk_database(pg18, "bounds", megabytes=200, shape="balanced")
    yield pg18
    pg18.drop_database("bounds")


def measure(cluster: Cluster, s3: S3Server, bucket: str, database: str, *options: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, f"s3://{bucket}/memory", database, str(JOBS), *options],
        env=os.environ
        | {
            "AIRFLOW_CONN_PG": cluster.airflow_connection("postgres"),
            "AIRFLOW_CONN_S3": s3.airflow_connection(),
            "AIRFLOW__PG_S3__CLIENT_PATH": str(cluster.pg_bin),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


# Ceph where it is: moto keeps four copies of what it gets.
@only_on(S3_SERVERS[-1])
def test_memory_does_not_grow_with_the_database(
    bulk: Cluster, s3: S3Server, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = measure(bulk, s3, bucket, "bounds", "--restore")
    bulk.drop_database("bounds_copy")
    bulk.create_database("bounds_large", template="bounds")
    try:
        # Tables of the same size, as a larger one's parts take more memory, and quickly made.
        create_wide_table(bulk, "bounds_large", "wide", megabytes=25)
        with bulk.connect("bounds_large") as connection:
            for copy in range(1, LARGE_TABLES):
                connection.execute(f"create table wide_{copy} as table wide")
        large = measure(bulk, s3, bucket, "bounds_large")
    finally:
        bulk.drop_database("bounds_large")
    with capsys.disabled():
        print(f"\npeak memory above idle ({small['idle'] / MIB:.0f} MiB) at {JOBS} jobs:")
        print(f"  backup of {small['raw'] / 1e9:.2f} GB: {small['backup'] / MIB:.0f} MiB")
        print(f"  restore of {small['raw'] / 1e9:.2f} GB: {small['restore'] / MIB:.0f} MiB")
        print(f"  backup of {large['raw'] / 1e9:.2f} GB: {large['backup'] / MIB:.0f} MiB")
        for size in (small, large):
            print(
                f"  verification of {size['raw'] / 1e9:.2f} GB: {size['verify'] / MIB:.0f} MiB, "
                f"its comparison took {size['compare_to_restore']:.2f} of the time of its restore"
            )
    assert large["raw"] > LARGE_TABLES // 8 * small["raw"]
    peaks = [small["backup"], small["restore"], small["verify"], large["backup"], large["verify"]]
    assert max(peaks) < 256 * MIB
    # "The same" but for when garbage is collected and how malloc's arenas fall.
    assert large["backup"] < small["backup"] + 64 * MIB
    assert large["verify"] < small["verify"] + 64 * MIB


WATCH = """
import json, os, select, sys
from pathlib import Path

parent, peak = Path(sys.argv[1]), 0
while not select.select([sys.stdin], [], [], 0.001)[0]:
    for folder in parent.iterdir():
        try:
            with os.scandir(folder / "spool" / "archive") as entries:
                peak = max(peak, sum(entry.stat().st_blocks * 512 for entry in entries))
        except FileNotFoundError:
            continue
print(peak)
"""


def states(folder: Path) -> dict[int, str]:
    """Pids of the processes that work in the folder, and their states: T is stopped."""
    found = {}
    for pid in processes_in(folder):
        with contextlib.suppress(OSError):  # gone meanwhile
            if Path(f"/proc/{pid}/comm").read_text() == "pg_dump\n":
                found[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return found


def test_a_slow_s3_pauses_pg_dump_and_the_spool_keeps_within_its_limit(
    bulk: Cluster, moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "INTERVAL_SECONDS", 1.0)
    log = Log()
    client = moto.client()
    bucket = moto.create_bucket("slow")
    stopped: set[int] = set()
    used: list[int] = []
    apply = Backpressure.apply

    def wait_before_run(request: Any, **_: object) -> None:
        """Slower than pg_dump, whatever the machine: no run is sent before all of it is stopped, or has ended."""
        if not re.search(r"/\d{6}\.zst$", request.url):
            return
        deadline = time.monotonic() + 120
        while not set((now := states(tmp_path)).values()) <= {"T"} or not log.lines_of_progress:
            assert time.monotonic() < deadline, "pg_dump is not stopped"
            time.sleep(0.01)
        stopped.update(now)

    def note_and_apply(self: Backpressure, now: int) -> None:
        used.append(now)
        apply(self, now)

    monkeypatch.setattr(Backpressure, "apply", note_and_apply)
    client.meta.events.register("before-send.s3.PutObject", wait_before_run)
    limit = 64 * MIB
    request = BackupRequest(
        source=postgres_connection.parameters(
            database="bounds",
            keywords={"host": bulk.host, "port": bulk.port, "user": bulk.user, "password": bulk.password},
        ),
        jobs=2,
        # Short, so that the database is many of them.
        run_bytes=5 * MIB,
        compression_level=1,
        spool_dir=str(tmp_path),
        spool_limit=limit,
        client_path=[str(bulk.pg_bin)],
    )
    began = time.monotonic()
    # A process of its own, so that it sees what is there and takes no time from the backup's threads.
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCH, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        result = back_up(request, Repository(client, f"s3://{bucket}/p"), cancel=threading.Event(), log=log)
    finally:
        peak = json.loads(watcher.communicate()[0])
    assert result.manifest.raw_bytes > 2 * limit
    # It has ended well, so it was resumed as well.
    assert len(stopped) == 3, "the leader and both workers are stopped"
    # Three quarters, and what it wrote from one look to the next: a busy machine may let us look late.
    late = max(after - before for before, after in itertools.pairwise(used))
    assert peak <= max(limit, limit * 3 // 4 + late) + request.jobs * READ_BYTES
    assert max(used) >= limit // 2, "the test did not come near the limit"
    assert list(tmp_path.iterdir()) == []
    lines = log.lines_of_progress
    pattern = (
        r"read [\d.]+ \w?B( of about [\d.]+ \w?B(, [\w ]+ left)?)?; stored [\d.]+ \w?B; [\d.]+ \w?B/s; "
        r"\d+ of \d+ files done; spool [\d.]+ \w?B(; at .+)?"
    )
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    # One a second, whatever the machine does, and one at the end.
    assert 2 <= len(lines) <= time.monotonic() - began + 1
    assert re.search(r"; (\d+) of \1 files done;", lines[-1])


class Log:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def lines_of_progress(self) -> list[str]:
        return [line for line in self.lines if line.startswith("read ")]

    def info(self, message: str, /, *args: object) -> None:
        self.lines.append(message % args if args else message)

    def warning(self, message: str, /, *args: object) -> None:
        self.lines.append(message % args if args else message)
