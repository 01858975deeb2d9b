"""Every fault of S3 at every request: success, or one clear failure that loses nothing and leaves nothing.

A sample in CI, by a seed that is printed; all cases with `make torture`.
"""

import logging
import os
import random
import threading
import types
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import botocore.endpoint
import pytest
from psycopg.conninfo import conninfo_to_dict

from airflow_pg_s3.core import download
from airflow_pg_s3.core.backup import BackupRequest, back_up
from airflow_pg_s3.core.codec import Decoder
from airflow_pg_s3.core.download import Downloader
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.feeder import CheckedMember
from airflow_pg_s3.core.libpq import ConnectionParameters, parameters
from airflow_pg_s3.core.manifest import Manifest
from airflow_pg_s3.core.repository import Repository, read_manifest
from airflow_pg_s3.core.restore import RestoreRequest, restore
from airflow_pg_s3.core.served import ServedArchive
from airflow_pg_s3.core.upload import StoredObject
from airflow_pg_s3.core.workspace import Workspace
from lab.postgres import Cluster, installations
from lab.proxy import (
    EXPIRED,
    INTERNAL_ERROR,
    SLOW_DOWN,
    TOO_MANY,
    Corrupt,
    Fault,
    FaultProxy,
    Reset,
    StaleList,
    Stall,
    Truncate,
    at,
    since,
)
from lab.s3 import Ceph, S3Server

MIB = 1 << 20
DATABASE = "swept"
TORTURE = os.environ.get("PG_S3_TORTURE") == "1"
SEED = int(os.environ.get("PG_S3_SEED", "20261124"))
# Of each operation, kind of fault and duration, in CI.
SAMPLE = 2
ATTEMPTS = 3
FAULTS: dict[str, Fault] = {
    "500": INTERNAL_ERROR,
    "503": SLOW_DOWN,
    "429": TOO_MANY,
    "expired": EXPIRED,
    "reset before": Reset("before"),
    "reset midway": Reset("midway"),
    "answer lost": Reset("after"),
    "truncated": Truncate(),
    "corrupted": Corrupt(),
    "stalled": Stall(),
    "stale list": StaleList(),
}
DURATIONS = {"once": at, "from then on": since}
# What S3 sends is a file, and what is sent by us is checked by a strict S3 alone.
FILL = """
create table large as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, 250000) i;
create table small as select i from generate_series(1, 100) i;
select lo_from_bytea(4711, 'a large object');
"""


@pytest.fixture(scope="module")
def counts() -> Iterator[Counter[str]]:
    counter: Counter[str] = Counter()
    yield counter
    print(f"\nsweeps (seed {SEED}{', all' if TORTURE else ''}):")
    for what, count in sorted(counter.items()):
        print(f"  {count:5} {what}")


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> S3Server:
    """The strict one where it can be had: moto does not notice what is damaged on its way to it."""
    name = "moto" if Ceph.available() else "ceph"
    found: S3Server = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(server) as running:
        yield running


@pytest.fixture(scope="module")
def world(proxy: FaultProxy, server: S3Server, pg18: Cluster) -> Iterator[SimpleNamespace]:
    """A source database, and an earlier backup of it."""
    pg18.create_database(DATABASE)
    pg18.psql(FILL, DATABASE)
    bucket = server.create_bucket(f"sweep-{uuid.uuid4().hex[:12]}")
    made = SimpleNamespace(
        cluster=pg18,
        bucket=bucket,
        # What works, and what may fail.
        client=server.client(),
        faulty=proxy.client(read_timeout=1, connect_timeout=5, retries={"total_max_attempts": ATTEMPTS}),
        proxy=proxy,
        requests={},
        search=[str(folder) for folder in installations().values()],
        log=logging.getLogger("sweeps"),
    )
    made.original = Repository(made.client, f"s3://{bucket}/original")
    made.backup = back_up(backup_request(made), made.original, cancel=threading.Event(), log=made.log)
    made.proxy.reset()
    yield made
    pg18.drop_database(DATABASE)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries at once: how long the pauses are is not the question here."""
    monkeypatch.setattr(botocore.endpoint, "time", types.SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def place(world: SimpleNamespace) -> Callable[[], str]:
    """() → the prefix of a new repository that holds a copy of the earlier backup."""

    def make() -> str:
        prefix = uuid.uuid4().hex
        for key in stored(world, "original"):
            source = {"Bucket": world.bucket, "Key": f"original/{key}"}
            world.client.copy_object(Bucket=world.bucket, Key=f"{prefix}/{key}", CopySource=source)
        return prefix

    return make


def params(cluster: Cluster, database: str) -> ConnectionParameters:
    keywords = conninfo_to_dict(cluster.dsn(database))
    return parameters(database=str(keywords.pop("dbname")), keywords=keywords)


def backup_request(world: SimpleNamespace) -> BackupRequest:
    return BackupRequest(
        source=params(world.cluster, DATABASE),
        jobs=1,
        part_bytes=5 * MIB,
        client_path=world.search,
    )


def stored(world: SimpleNamespace, prefix: str) -> dict[str, str]:
    """Key below the prefix → ETag; uploads that were not completed as well."""
    listing = world.client.get_paginator("list_objects_v2").paginate(Bucket=world.bucket, Prefix=f"{prefix}/")
    uploads = world.client.list_multipart_uploads(Bucket=world.bucket, Prefix=f"{prefix}/").get("Uploads", [])
    return {
        entry["Key"].removeprefix(f"{prefix}/"): entry["ETag"]
        for page in listing
        for entry in page.get("Contents", [])
    } | {entry["Key"].removeprefix(f"{prefix}/"): "an upload" for entry in uploads}


def cases(requests: int, *name: str) -> list[int]:
    """At which requests of so many a fault happens."""
    if TORTURE:
        return list(range(requests))
    return sorted(random.Random(f"{SEED} {name}").sample(range(requests), min(SAMPLE, requests)))


@dataclass
class Case:
    """One run with one fault."""

    world: SimpleNamespace
    what: str
    fault: str
    duration: str
    index: int
    error: PgS3Error | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.fault} {self.duration}, request {self.index}: {self.error!r}"

    def run(self, action: Callable[[], object]) -> None:
        """Do it with the fault, which must have happened; any other error than ours fails the test."""
        proxy = self.world.proxy
        proxy.reset(DURATIONS[self.duration](self.index, FAULTS[self.fault]))
        try:
            action()
        except PgS3Error as error:
            self.error = error
        assert proxy.faults, self
        proxy.reset()


@pytest.fixture
def swept(world: SimpleNamespace, counts: Counter[str]) -> Callable[..., Iterator[Case]]:
    """(what, fault, duration, a run without faults) → the cases to go through."""

    def each(what: str, fault: str, duration: str, clean: Callable[[], object]) -> Iterator[Case]:
        if what not in world.requests:
            world.proxy.reset()
            clean()
            world.requests[what] = len(world.proxy.requests)
        for index in cases(world.requests[what], what, fault, duration):
            case = Case(world, what, fault, duration, index)
            yield case
            counts[f"{what}: {'clear failure' if case.error else 'success'}"] += 1

    return each


def assert_whole(world: SimpleNamespace, prefix: str) -> None:
    """Every backup with a manifest can be read to its last byte; nothing else is there."""
    repository = Repository(world.client, f"s3://{world.bucket}/{prefix}")
    expected = set()
    for ref in repository.backups(DATABASE):
        manifest, base, _ = read_manifest(world.client, ref.uri)
        read_all(world, manifest, base)
        expected |= {f"{DATABASE}/{record.key}" for record in manifest.objects}
        # The record of who makes it may have outlived the commit; it is ignored, and goes with the backup.
        around = (".json", ".verified.json", "/begun")
        expected |= {f"{DATABASE}/{manifest.backup_id}{suffix}" for suffix in around}
    assert set(stored(world, prefix)) <= expected


def read_all(world: SimpleNamespace, manifest: Manifest, base: str) -> None:
    """Read every member, and check its digest."""
    keys = {
        record.key: StoredObject(key=base + record.key, stored_bytes=record.stored_bytes)
        for record in manifest.objects
    }
    with (
        Workspace() as workspace,
        Downloader(world.client, world.bucket, cancel=threading.Event(), threads=2) as downloader,
    ):
        decoder = Decoder(manifest.encryption, ())
        archive = ServedArchive(manifest, base, downloader, decoder, workspace)
        archive.fetch({member.name for member in manifest.members if member.packed})
        for member in manifest.members:
            if not member.packed:
                target = CheckedMember(member, os.open(os.devnull, os.O_WRONLY))
                decoder.decode(downloader.stream([keys[key] for key in member.objects]), target.write)
                target.close()


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_backup(
    world: SimpleNamespace, place: Callable[[], str], swept: Callable, fault: str, duration: str
) -> None:
    def run(prefix: str, client: object) -> object:
        repository = Repository(client, f"s3://{world.bucket}/{prefix}")
        return back_up(backup_request(world), repository, cancel=threading.Event(), log=world.log)

    for case in swept("backup", fault, duration, lambda: run(place(), world.faulty)):
        prefix = place()
        earlier = stored(world, prefix)
        case.run(lambda prefix=prefix: run(prefix, world.faulty))
        if case.error is not None:
            run(prefix, world.client)
        assert_whole(world, prefix)
        assert earlier.items() <= stored(world, prefix).items(), case


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_restore(
    world: SimpleNamespace, new_name: Callable[..., str], swept: Callable, fault: str, duration: str
) -> None:
    def run(database: str, client: object) -> object:
        request = RestoreRequest(
            backup=world.backup.uri,
            target=params(world.cluster, database),
            if_exists="replace",
            keep_previous=False,
            jobs=1,
            client_path=world.search,
        )
        return restore(request, client, cancel=threading.Event(), log=world.log)

    for case in swept("restore", fault, duration, lambda: run(new_name(world.cluster), world.faulty)):
        live = new_name(world.cluster)
        world.cluster.create_database(live)
        world.cluster.psql("create table before as select 1 as i", live)
        case.run(lambda live=live: run(live, world.faulty))
        assert tables_of(world.cluster, live) == (["before"] if case.error else ["large", "small"]), case
        if case.error is not None:
            run(live, world.client)
        assert tables_of(world.cluster, live) == ["large", "small"], case
        query = f"select count(*) from pg_database where datname like '{live}%'"
        assert world.cluster.psql(query).strip() == "1", case


def tables_of(cluster: Cluster, database: str) -> list[str]:
    query = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1"
    return cluster.psql(query, database).split()
