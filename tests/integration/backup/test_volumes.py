"""A member of any size is cut into equal parts and volumes, whichever edge it ends at."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_pg_s3.core.backup.backup import BackupResult, back_up
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.restore import restore
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.upload import Uploader
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster, installations
from testkit.s3 import S3Server
from tests.integration.conftest import only_on
from tests.support.sampling import sample

PART = 5 << 20  # the least that S3 takes
PARTS_PER_VOLUME = 2
VOLUME = PART * PARTS_PER_VOLUME
LOG = logging.getLogger(__name__)
CLIENTS = [str(folder) for folder in installations().values()]
# Random bytes: the hexadecimal text of a member shrinks to about half, which are these bytes again.
INCOMPRESSIBLE = """
CREATE TABLE noise (id int PRIMARY KEY, bytes bytea);
INSERT INTO noise SELECT i, (SELECT string_agg(decode(md5(i || '/' || j), 'hex'), '')
    FROM generate_series(1, 65536) AS j) FROM generate_series(1, {megabytes}) AS i;
CREATE TABLE beside AS SELECT i, 'a small table' AS t FROM generate_series(1, 1000) AS i;
"""


class PartSizes:
    """Listens to a client: the sizes of the parts of each object that it uploads."""

    def __init__(self, client) -> None:
        self.by_key: dict[str, dict[int, int]] = {}
        client.meta.events.register("provide-client-params.s3.UploadPart", self._see)

    def _see(self, params: dict, **_: object) -> None:
        self.by_key.setdefault(params["Key"], {})[params["PartNumber"]] = len(params["Body"])

    def of(self, key: str) -> list[int]:
        parts = self.by_key.get(key, {})
        assert sorted(parts) == list(range(1, len(parts) + 1))
        return [parts[number] for number in sorted(parts)]


@pytest.fixture(scope="module")
def noise(pg18: Cluster) -> Iterator[str]:
    """A database that nobody changes."""
    pg18.create_database("noise")
    pg18.psql(INCOMPRESSIBLE.format(megabytes=27), "noise")
    yield "noise"
    pg18.drop_database("noise")


@pytest.fixture
def run_backup(pg18: Cluster, repository: str, spool_dir: Path) -> Callable[..., BackupResult]:
    """(S3 client, database, **settings of the core) → the result of the backup."""

    def run(client, database: str, **settings: object) -> BackupResult:
        request = BackupRequest(
            source=source_of(pg18, database), spool_dir=str(spool_dir), client_path=CLIENTS, **settings
        )
        return back_up(request, Repository(client, repository), cancel=threading.Event(), log=LOG)

    return run


def source_of(cluster: Cluster, database: str):
    return parameters(database=database, keywords=cluster.keywords)


def expected_parts(size: int) -> list[int]:
    whole, rest = divmod(size, PART)
    return [PART] * whole + ([rest] if rest else [])


def test_a_large_table_is_stored_in_equal_parts_and_volumes_and_comes_back_exactly(
    pg18: Cluster, s3: S3Server, bucket: str, noise: str, new_name, run_backup, spool_dir: Path
):
    client = s3.client()
    seen = PartSizes(client)
    made = run_backup(client, noise, part_bytes=PART, parts_per_volume=PARTS_PER_VOLUME)
    (member,) = [m for m in made.manifest.members if m.table is not None and m.table.name == "noise"]
    first = f"{made.manifest.backup_id}/{member.name}.zst"
    assert member.objects == [first, f"{first}.001", f"{first}.002"]
    sizes = {record.key: record.stored_bytes for record in made.manifest.objects}
    assert [sizes[key] for key in member.objects[:-1]] == [VOLUME] * 2
    assert PART < sizes[member.objects[-1]] < VOLUME
    base = made.key.rpartition("/")[0]
    for key in member.objects:
        head = client.head_object(Bucket=bucket, Key=f"{base}/{key}")
        assert head["ContentLength"] == sizes[key]
        assert seen.of(f"{base}/{key}") == expected_parts(sizes[key])
        assert head["ETag"].endswith(f'-{len(expected_parts(sizes[key]))}"')
    copy = new_name(pg18, "copy")
    request = RestoreRequest(
        backup=made.uri, target=source_of(pg18, copy), spool_dir=str(spool_dir), client_path=CLIENTS
    )
    done = restore(request, s3.client(), cancel=threading.Event(), log=LOG)
    assert done.amounts.read_bytes == made.manifest.stored_bytes
    assert compare_databases(pg18.dsn(noise), pg18.dsn(copy)) == []


@only_on("moto")
def test_a_pack_that_crosses_parts_and_volumes_comes_back_exactly(
    pg18: Cluster, s3: S3Server, noise: str, new_name, run_backup, spool_dir: Path
):
    # with such a limit, the large table is small
    settings = {"small_bytes": 1 << 30, "pack_bytes": 1 << 30}
    made = run_backup(s3.client(), noise, part_bytes=PART, parts_per_volume=PARTS_PER_VOLUME, **settings)
    packs = list(made.manifest.packs())
    assert sorted(len(objects) for objects, _ in packs) == [1, 3]
    assert all(member.packed for member in made.manifest.members)
    copy = new_name(pg18, "copy")
    request = RestoreRequest(
        backup=made.uri, target=source_of(pg18, copy), spool_dir=str(spool_dir), client_path=CLIENTS
    )
    restore(request, s3.client(), cancel=threading.Event(), log=LOG)
    assert compare_databases(pg18.dsn(noise), pg18.dsn(copy)) == []


EDGES = [0, 1, PART - 1, PART, PART + 1, VOLUME - 1, VOLUME, VOLUME + 1, VOLUME + PART, 2 * VOLUME, 2 * VOLUME + 1]


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize(
    ("size", "piece"),
    sample(
        [
            *((size, 65_537) for size in EDGES),
            *((size, piece) for size in (PART, VOLUME + 1, 2 * VOLUME) for piece in (PART - 1, 1 << 30)),
        ],
        6,
        "edges of volumes",
    ),
)
@only_on("moto")
def test_a_stream_that_ends_at_an_edge_is_stored_in_equal_parts(
    s3: S3Server, bucket: str, size: int, piece: int, leftovers
):
    data = (b"%015d\n" % 7 * (size // 16 + 1))[: max(size - 1, 0)] + b"!" * (size > 0)
    client = s3.client()
    seen = PartSizes(client)
    cancel = threading.Event()
    with Uploader(client, bucket, cancel=cancel, part_bytes=PART, parts_per_volume=PARTS_PER_VOLUME) as uploader:
        stream = uploader.open("some/key")
        for chunk in in_pieces(data, piece):
            stream.write(chunk)
        assert stream.stored_bytes == size
        objects = stream.close()
    volumes = [data[start : start + VOLUME] for start in range(0, size, VOLUME)] or [b""]
    assert [o.key for o in objects] == ["some/key", *(f"some/key.{n:03d}" for n in range(1, len(volumes)))]
    assert [o.stored_bytes for o in objects] == [len(volume) for volume in volumes]
    assert leftovers() == [o.key for o in objects]
    for stored, volume in zip(objects, volumes, strict=True):
        assert client.get_object(Bucket=bucket, Key=stored.key)["Body"].read() == volume
        # what fits into one part is sent in one request, without an upload in parts
        assert seen.of(stored.key) == (expected_parts(len(volume)) if len(volume) > PART else [])
    with Downloader(client, bucket, cancel=cancel, range_bytes=PART - 1) as downloader:
        assert b"".join(downloader.stream(objects)) == data
