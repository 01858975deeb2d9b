"""``make scale``: whether it stays small and quick when there is much of everything.

size
    The same database, larger and larger: seconds and memory of a backup and a restore.
objects
    10,000 tables and 100,000 large objects: backup, then verification (restore and comparison).
catalogue
    100,000 backups in one repository: listing and prune.
chunks
    1,000 backups of 100,000 chunks each, which they share: prune.
fleet
    50 databases as mapped tasks of the DAG pg_s3_fleet, under `airflow standalone` and with a pool.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import sys
import tempfile
import threading
import time
import urllib.error
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_pg_s3.core.backup.backup import back_up
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.repository.backup_id import new_backup_id
from airflow_pg_s3.core.repository.catalog import Selection, select
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import Repository
from benchmarks.measure import Measured, ceph_requests, measure
from benchmarks.report import line, machine, say
from benchmarks.shapes import LARGE_OBJECTS
from testkit.airflow_standalone import Standalone, wait_until
from testkit.databases import create_bulk_database, create_many_tables
from testkit.postgres import Cluster
from testkit.s3 import Ceph
from testkit.task_process import told

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
FULL_EVERY = 30
RUNS, CHUNKS_PER_RUN = 12_500, 8
Facts = Mapping[str, Any]


class Place:
    """A cluster, an S3 server with a bucket, and a folder."""

    def __init__(self, cluster: Cluster, server: Ceph, work: Path) -> None:
        self.cluster = cluster
        self.server = server
        self.work = work
        self.counters = {"requests": ceph_requests(server.home)}
        self.bucket = server.create_bucket(f"scale-{uuid.uuid4().hex[:12]}")
        self.repository = f"s3://{self.bucket}/scale"

    def connection(self, database: str) -> dict[str, Any]:
        return {"database": database, "keywords": self.cluster.keywords}

    def run(self, verb: str, **arguments: Any) -> Measured:
        """One verb in a process of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.work))
        if verb in ("backup", "restore", "verification"):
            arguments |= {"spool_dir": str(folder), "client_path": [str(self.cluster.pg_bin)]}
        return measure(
            f"exec {sys.executable} -m testkit.task_process",
            env=self.cluster.client_env() | {"PYTHONPATH": str(ROOT)},
            folder=folder,
            counters=self.counters,
            stdin=told(verb, arguments, self.server, repository=self.repository) + "\n",
        )

    def objects(self) -> list[str]:
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def newest_uri(self, database: str) -> str:
        return next(Repository(self.server.client(), self.repository).newest_first(database)).uri


def size(place: Place, given: argparse.Namespace) -> Iterator[Facts]:
    """Grow."""
    for gigabytes in given.gigabytes:
        name = f"bulk_{gigabytes}"
        say(f"making {gigabytes} GB")
        create_bulk_database(place.cluster, name, megabytes=gigabytes * 1000, shape="balanced")
        made = place.run("backup", source=place.connection(name), jobs=given.jobs)
        yield _facts(f"{gigabytes} GB: backup, {given.jobs} jobs", made)
        place.cluster.create_database("target", template="template0")
        uri = place.newest_uri(name)
        restored = place.run("restore", target=place.connection("target"), backup=uri, jobs=given.jobs)
        yield _facts(f"{gigabytes} GB: restore, {given.jobs} jobs", restored)
        for number in range(8):
            count = f"select count(*) from orders_{number}"
            assert place.cluster.psql(count, name) == place.cluster.psql(count, "target")
        place.cluster.drop_database("target")
        place.cluster.drop_database(name)


def objects(place: Place, given: argparse.Namespace) -> Iterator[Facts]:
    """Many small things, each in a database of its own."""
    create_many_tables(place.cluster, "tables", tables=given.tables)
    place.cluster.create_database("large_objects")
    place.cluster.psql(LARGE_OBJECTS.format(count=given.large_objects), "large_objects")
    for name, count in (("tables", given.tables), ("large_objects", given.large_objects)):
        say(f"{count} {name}")
        before = len(place.objects())
        what = f"{count:,} {name.replace('_', ' ')}"
        made = place.run("backup", source=place.connection(name), jobs=2)
        stored = len(place.objects()) - before
        yield _facts(f"{what}: backup, 2 jobs", made) | {"objects": stored}
        uri = place.newest_uri(name)
        verified = place.run("verification", server=place.connection("postgres"), backup=uri, jobs=2)
        yield _facts(f"{what}: verification on the same server, 2 jobs", verified)


def _small_backup(place: Place, client: S3Client) -> Manifest:
    place.cluster.create_database("small")
    request = BackupRequest(
        source=parameters(database="small", keywords=place.cluster.keywords),
        client_path=[str(place.cluster.pg_bin)],
    )
    repository = Repository(client, place.repository)
    return back_up(request, repository, cancel=threading.Event(), log=logging.getLogger("scale")).manifest


def catalogue(place: Place, given: argparse.Namespace) -> Iterator[Facts]:
    """Many backups of one database."""
    client = place.server.client(max_pool_connections=16)
    repository = Repository(client, place.repository)
    original = _small_backup(place, client)

    def copy(number: int) -> None:
        at = original.created_at - timedelta(hours=number + 1)
        backup_id = new_backup_id(at)
        text = original.model_copy(update={"created_at": at}).model_dump_json(by_alias=True)
        # Its objects' keys as well: a manifest that speaks of another backup's objects is refused.
        copied = Manifest.model_validate_json(text.replace(original.backup_id, backup_id))
        # As many objects as a small backup has; their contents do not matter to a listing.
        for key in copied.object_keys():
            client.put_object(Bucket=place.bucket, Key=f"scale/small/{key}", Body=b"")
        client.put_object(Bucket=place.bucket, Key=f"scale/small/{backup_id}.json", Body=copied.to_json())

    say(f"making {given.backups} backups")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(copy, range(given.backups)))
    newest = select(repository, Selection(database="small", limit=100), logging.getLogger("scale"))
    assert len(newest) == min(100, given.backups + 1), "the copies are no backups"
    what = f"{given.backups:,} backups"
    yield _facts(f"{what}: the newest one", place.run("listing", database="small", limit=1))
    yield _facts(f"{what}: the newest 100", place.run("listing", database="small", limit=100))
    yield _facts(f"{what}: all", place.run("listing", database="small"))
    yield _facts(f"{what}: prune, dry run", place.run("prune", database="small", dry_run=True, retention=KEPT))


def chunks(place: Place, given: argparse.Namespace) -> Iterator[Facts]:
    """Backups of many chunks: a full one each thirty nights, after which each night replaces a hundredth."""
    client = place.server.client(max_pool_connections=16)
    original = _small_backup(place, client)
    ids = [new_backup_id(original.created_at - timedelta(days=given.nights - n)) for n in range(given.nights)]

    def store(number: int) -> None:
        age = number % FULL_EVERY
        runs = {ids[number - age]: _ranges(one for one in range(1, RUNS + 1) if one * 37 % 100 >= age)}
        runs |= {ids[night]: [(1, RUNS // 100)] for night in range(number - age + 1, number + 1)}
        made = original.model_copy(
            update={"created_at": original.created_at - timedelta(days=given.nights - number)}
        )
        manifest = Manifest.model_validate_json(
            made.model_dump_json(by_alias=True, exclude={"runs"})
            .replace(original.backup_id, ids[number])
            .replace("{", f'{{"runs": {json.dumps(runs)},', 1)
        )
        client.put_object(Bucket=place.bucket, Key=f"scale/small/{ids[number]}.json", Body=manifest.to_json())

    say(f"making {given.nights} backups of {RUNS * CHUNKS_PER_RUN:,} chunks")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(store, range(given.nights)))
    newest = select(
        Repository(client, place.repository), Selection(database="small", limit=9), logging.getLogger()
    )
    assert ids[-1] in {entry.backup_id for entry in newest}, "the copies are no backups"
    what = f"{given.nights:,} backups of {RUNS * CHUNKS_PER_RUN:,} chunks"
    yield _facts(f"{what}: prune, dry run", place.run("prune", database="small", dry_run=True, retention=KEPT))


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def fleet(place: Place, given: argparse.Namespace) -> Iterator[Facts]:
    """Many databases under Airflow."""
    say(f"making {given.databases} databases")
    for number in range(given.databases):
        create_bulk_database(place.cluster, f"tenant_{number:03}", megabytes=given.tenant_megabytes)
    airflow = Standalone(
        Path(tempfile.mkdtemp(dir=place.work)),
        {
            "AIRFLOW__PG_S3__CLIENT_PATH": str(place.cluster.pg_bin),
            "AIRFLOW_CONN_FLEET": place.cluster.airflow_connection("postgres"),
            "AIRFLOW_CONN_AWS_DEFAULT": place.server.airflow_connection(),
            "PG_S3_REPOSITORY": f"s3://{place.bucket}/fleet",
            "PG_S3_FLEET_SERVERS": "fleet",
            "PG_S3_FLEET_EXCLUDE": "postgres",
            "PG_S3_FLEET_MAX_ACTIVE_TASKS": "64",
            "PG_S3_POOL": "backups",
        },
        parallelism=32,
    )
    try:
        wait_until(airflow.is_up, "airflow standalone is up", seconds=300)
        pool = {"name": "backups", "slots": given.slots, "description": "", "include_deferred": False}
        wait_until(lambda: _is_made(airflow, pool), "the pool is there")
        wait_until(lambda: _is_known(airflow, "pg_s3_fleet"), "the DAG is there")
        peak = Peak(lambda: int(place.cluster.psql(CONNECTIONS)))
        began = time.monotonic()
        run = airflow.trigger("pg_s3_fleet")
        with peak:
            state = airflow.end_of("pg_s3_fleet", run, seconds=3600)
        seconds = time.monotonic() - began
        tasks = airflow.call("GET", f"/dags/pg_s3_fleet/dagRuns/{run}/taskInstances?limit=1000")["task_instances"]
    finally:
        airflow.stop()
    backups = [task for task in tasks if task["task_id"] == "fleet.backup"]
    assert state == "success", Counter(task["state"] for task in backups)
    assert len(backups) == given.databases
    yield {
        "what": f"{given.databases} databases of {given.tenant_megabytes} MB, a pool of {given.slots} slots",
        "seconds": seconds,
        "backups": len([key for key in place.objects() if key.endswith(".json")]),
        "tries": sum(task["try_number"] for task in backups),
        "connections at most": peak.most,
        "seconds of a task (median)": sorted(task["duration"] for task in backups)[len(backups) // 2],
    }


KEPT = {"keep_last": 7, "keep_daily": 30, "keep_monthly": 12}
CONNECTIONS = (
    "select count(*) from pg_stat_activity where application_name in ('airflow-provider-pg-s3', 'pg_dump')"
)


class Peak:
    """The most that a figure ever was during a `with` block."""

    def __init__(self, figure: Callable[[], int]) -> None:
        self._figure = figure
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.most = max(self.most, self._figure())


def _is_made(airflow: Standalone, pool: Mapping[str, Any]) -> bool:
    try:
        airflow.call("POST", "/pools", pool)
    except urllib.error.HTTPError as error:
        # SQLite is locked while Airflow writes down its DAGs.
        if error.code < 500:
            raise
        return False
    return True


def _is_known(airflow: Standalone, dag_id: str) -> bool:
    return any(dag["dag_id"] == dag_id for dag in airflow.call("GET", "/dags?limit=100")["dags"])


def _facts(what: str, measured: Measured) -> dict[str, Any]:
    return {
        "what": what,
        "seconds": measured.seconds,
        "our CPU seconds": measured.own["cpu_seconds"],
        "our memory, MiB": measured.own["peak_bytes"] / MIB,
        "disk, MiB": measured.peak_disk_bytes / MIB,
        "S3 requests": measured.servers["requests"],
    }


PARTS: dict[str, Callable[[Place, argparse.Namespace], Iterator[Facts]]] = {
    "size": size,
    "objects": objects,
    "catalogue": catalogue,
    "chunks": chunks,
    "fleet": fleet,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", help="all, if none is given")
    parser.add_argument("--gigabytes", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--large-objects", type=int, default=100_000)
    parser.add_argument("--backups", type=int, default=100_000)
    parser.add_argument("--nights", type=int, default=1_000)
    parser.add_argument("--databases", type=int, default=50)
    parser.add_argument("--tenant-megabytes", type=int, default=5)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="what is there is added to")
    given = parser.parse_args()
    file = given.out / "scale.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for part in given.part or PARTS:
        with tempfile.TemporaryDirectory(prefix="scale-") as work, Ceph() as server, Cluster(major=18) as cluster:
            facts = []
            for fact in PARTS[part](Place(cluster, server, Path(work)), given):
                say(json.dumps(fact))
                facts.append(fact)
        found[part] = {"machine": machine(), "date": datetime.date.today().isoformat(), "facts": facts}
        given.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
        (given.out / "scale.md").write_text(_text(found))


def _text(found: Mapping[str, Any]) -> str:
    lines = ["# Figures of scale", "", "Made by `make scale`; what they mean: [scale](../scale.md)."]
    for part, told_of in found.items():
        lines += ["", f"## {part.capitalize()}", "", f"{told_of['date']}."]
        columns: tuple[str, ...] = ()
        for fact in told_of["facts"]:
            if tuple(fact) != columns:
                columns = tuple(fact)
                lines += ["", line(columns), f"|---{'|---:' * (len(columns) - 1)}|"]
            cells = (f"{value:,.1f}" if isinstance(value, float) else str(value) for value in fact.values())
            lines.append(line(cells))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
