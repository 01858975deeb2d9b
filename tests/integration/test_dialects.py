"""What other stores than AWS do differently: each works, or is refused with the setting that helps."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web

from airflow_pg_s3.core import backup as backup_verb
from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.operators import backup as backup_operator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from lab.compare import compare_databases
from lab.postgres import Cluster
from lab.proxy import Fault, FaultProxy, Refuse, Request, StaleList
from lab.s3 import S3Server

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)
MIB = 1 << 20
FILL = """
create table large as select i, md5(i::text) || md5((i * 7)::text) || md5((i * 11)::text) as a,
    md5((i * 13)::text) as b from generate_series(1, 200000) i;
create table small as select 1 as i;
"""
CHECKSUMS = ("x-amz-checksum-", "x-amz-sdk-checksum-algorithm", "x-amz-trailer")


class NoChecksums:
    """Google Cloud Storage and older Cephs."""

    def __call__(self, request: Request) -> Fault | None:
        refused = any(name.lower().startswith(CHECKSUMS) for name in request.headers)
        return Refuse(400, "InvalidArgument") if refused else None


@dataclass
class EqualParts:
    """Cloudflare R2: all parts but the last have one size."""

    sizes: dict[str, dict[int, int]] = field(default_factory=dict)

    def __call__(self, request: Request) -> Fault | None:
        upload = re.search("uploadId=([^&]+)", request.query)
        if request.operation == "UploadPart":
            number = int(re.search(r"partNumber=(\d+)", request.query).group(1))
            self.sizes.setdefault(upload.group(1), {})[number] = len(request.body)
        if request.operation == "CompleteMultipartUpload":
            *sizes, last = (size for _, size in sorted(self.sizes[upload.group(1)].items()))
            if len(set(sizes)) > 1 or (sizes and last > sizes[0]):
                return Refuse(400, "InvalidPart")
        return None


@dataclass
class PartLimit:
    """Scaleway: 1,000 parts; here 2."""

    limit: int

    def __call__(self, request: Request) -> Fault | None:
        number = re.search(r"partNumber=(\d+)", request.query)
        return Refuse(400, "InvalidArgument") if number and int(number.group(1)) > self.limit else None


class NoConditionalWrites:
    """Says so when asked."""

    def __call__(self, request: Request) -> Fault | None:
        return Refuse(501, "NotImplemented") if "If-None-Match" in request.headers else None


@dataclass(frozen=True)
class Without(Fault):
    """Passes a request on without one header, which the server ignores."""

    name: str

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() != self.name}
        answer = await proxy.forward(replace(request, headers=headers))
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


class IgnoredConditions:
    """Ceph 16 does so when it completes an upload."""

    def __call__(self, request: Request) -> Fault | None:
        return Without("if-none-match") if "If-None-Match" in request.headers else None


@dataclass(frozen=True)
class OpaqueETags(Fault):
    """ETags that are no MD5, as those of encrypted objects on AWS."""

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        headers = {
            name: value.replace("opaque-", "") if name.lower().startswith("if-") else value
            for name, value in request.headers.items()
        }
        answer = await proxy.forward(replace(request, headers=headers), body=request.body.replace(b"opaque-", b""))
        if "ETag" in answer.headers:
            answer.headers["ETag"] = answer.headers["ETag"].replace('"', '"opaque-', 1)
        body = b"" if request.method == "HEAD" else answer.body
        answer.headers.popall("Content-Length", None) if request.method != "HEAD" else None
        return web.Response(status=answer.status, headers=answer.headers, body=body or None)


class Opaque:
    def __call__(self, request: Request) -> Fault | None:
        return OpaqueETags() if not request.operation.startswith("List") else None


class ObjectLock:
    """A bucket with a default retention takes no object without a checksum or MD5 sum of it."""

    def __call__(self, request: Request) -> Fault | None:
        names = {name.lower() for name in request.headers}
        has_one = "content-md5" in names or any(name.startswith("x-amz-checksum-") for name in names)
        return Refuse(400, "InvalidRequest") if request.method == "PUT" and not has_one else None


class StaleLists:
    """A list lacks its newest entry."""

    def __call__(self, request: Request) -> Fault | None:
        return StaleList() if request.operation == "ListObjectsV2" else None


@pytest.fixture
def proxy(s3: S3Server, connections) -> Iterator[FaultProxy]:
    with FaultProxy(s3) as running:
        connections.set("aws", running.airflow_connection())
        yield running


@pytest.fixture
def database(pg18: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg18, FILL)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts, and several volumes."""

    def request(**arguments: object) -> backup_verb.BackupRequest:
        return backup_verb.BackupRequest(**arguments, part_bytes=5 * MIB, parts_per_volume=2)

    monkeypatch.setattr(backup_operator, "BackupRequest", request)


@pytest.mark.parametrize(
    ("dialect", "must_happen"),
    [
        (EqualParts(), False),
        (PartLimit(2), False),
        (NoConditionalWrites(), True),
        (IgnoredConditions(), True),
        (Opaque(), True),
        (ObjectLock(), False),
        (StaleLists(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_it_works(
    pg18: Cluster,
    database: str,
    proxy: FaultProxy,
    back_up: Callable[..., dict],
    restore: Callable[..., dict],
    new_name: Callable[..., str],
    dialect: Callable,
    must_happen: bool,
) -> None:
    proxy.reset(dialect)
    done = back_up(pg18, database)
    assert [request for request in proxy.requests if request.operation == "CompleteMultipartUpload"]
    copy = new_name(pg18)
    restore(pg18, copy, backup=done["uri"])
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []
    assert bool(proxy.faults) == must_happen


def test_object_lock_works_without_newer_checksums(
    pg18: Cluster,
    database: str,
    proxy: FaultProxy,
    connections,
    back_up: Callable[..., dict],
    list_backups: Callable[..., list[dict]],
) -> None:
    proxy.reset(ObjectLock())
    settings = {**proxy.config_kwargs, "request_checksum_calculation": "when_required"}
    connections.set("aws", proxy.airflow_connection(config_kwargs=settings))
    done = back_up(pg18, database)
    assert {"PutObject", "UploadPart"} <= {request.operation for request in proxy.requests}
    PgS3VerifyOperator(task_id="v", backup=done["uri"], aws_conn_id="aws", level="checksum").execute({})
    (row,) = list_backups()
    assert row["verification"]["outcome"] == "verified"
    assert proxy.faults == []


def test_a_store_without_checksums_works_with_the_setting_that_the_refusal_names(
    pg18: Cluster,
    database: str,
    proxy: FaultProxy,
    connections,
    back_up: Callable[..., dict],
    restore: Callable[..., dict],
    new_name: Callable[..., str],
    leftovers: Callable[[], list[str]],
) -> None:
    proxy.reset(NoChecksums())
    with pytest.raises(StorageError, match="If this store does not know CRC checksums") as refusal:
        back_up(pg18, database)
    assert leftovers() == []
    extra = json.loads(str(refusal.value).partition("extra: ")[2])
    proxy.reset(NoChecksums())
    settings = {**proxy.config_kwargs, **extra["config_kwargs"]}
    connections.set("aws", proxy.airflow_connection(config_kwargs=settings))
    done = back_up(pg18, database)
    restore(pg18, new_name(pg18), backup=done["uri"])
    assert proxy.faults == []
