"""What other stores than AWS do differently: each works, or is refused with the setting that helps."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.repository import listing
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.hooks import pg_s3 as hook
from airflow_pg_s3.operators.prune import PgS3PruneOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.database_equality import compare_databases
from testkit.fault_proxy import Fault, FaultProxy, Refuse, Request, StaleList
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.support.stored_backups import Shelf, id_at

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)
MIB = 1 << 20
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
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


@dataclass(frozen=True)
class NoDeleteObjects:
    """Stores that delete one object at a time, or want an MD5 sum where the client sends a CRC."""

    status: int
    code: str

    def __call__(self, request: Request) -> Fault | None:
        return Refuse(self.status, self.code) if request.operation == "DeleteObjects" else None


class OnlyMD5:
    """Stores of before 2025: DeleteObjects needs the MD5 sum of its body, and other checksums are not known."""

    def __call__(self, request: Request) -> Fault | None:
        if request.operation != "DeleteObjects":
            return None
        headers = {name.lower(): value for name, value in request.headers.items()}
        md5 = base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()
        if headers.get("content-md5") == md5 and not any(name.startswith(CHECKSUMS) for name in headers):
            return None
        return Refuse(400, "MissingContentMD5")


class WithoutToken(Fault):
    """The list of a store that knows the first version of ListObjects alone."""

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        answer = await proxy.forward(request)
        body = re.sub(b"<NextContinuationToken>.*</NextContinuationToken>", b"", answer.body)
        return web.Response(status=answer.status, body=body, content_type="application/xml")


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
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:

    def request(**arguments: object) -> BackupRequest:
        return BackupRequest(**arguments, run_bytes=5 * MIB)

    monkeypatch.setattr(hook, "BackupRequest", request)


@pytest.mark.parametrize(
    ("dialect", "must_happen"),
    [
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
    copy = new_name(pg18)
    restore(pg18, copy, backup=done["uri"])
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []
    assert bool(proxy.faults) == must_happen


@dataclass(frozen=True)
class WithoutParameter(Fault):
    """Passes a request on without one parameter of its query, which the server ignores."""

    name: str

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        path, _, query = request.headers[":path"].partition("?")
        left = "&".join(part for part in query.split("&") if part.partition("=")[0] != self.name)
        answer = await proxy.forward(replace(request, headers={**request.headers, ":path": f"{path}?{left}"}))
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


def test_a_store_that_begins_no_list_where_it_is_asked_to_is_noticed_and_listed_whole(
    proxy: FaultProxy, repository: str, list_backups: Callable[..., list[dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_KEYS_A_PAGE", 20)
    shelf = Shelf(proxy.client(), repository)
    made = [shelf.put_backup("shop", LONG_AGO + timedelta(hours=hours)) for hours in range(50)]

    def rule(request: Request) -> Fault | None:
        if request.index > 60:
            return Refuse(400, "TooManyRequestsOfThisTest")
        return WithoutParameter("start-after") if "start-after" in request.query else None

    for arguments, expected in (
        ({"limit": 1}, made[:-2:-1]),
        ({"limit": 30}, made[:-31:-1]),
        ({"limit": 2, "before": LONG_AGO + timedelta(hours=10)}, made[9:7:-1]),
        ({}, made[::-1]),
    ):
        proxy.reset(rule)
        assert [row["backup_id"] for row in list_backups(database="shop", **arguments)] == expected


def test_a_list_that_says_there_is_more_and_not_where_is_not_taken_for_the_whole(
    proxy: FaultProxy, repository: str, list_backups: Callable[..., list[dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_KEYS_A_PAGE", 20)
    shelf = Shelf(proxy.client(), repository)
    for hours in range(30):
        shelf.put_backup("shop", LONG_AGO + timedelta(hours=hours))
    proxy.reset(lambda request: WithoutToken() if request.operation == "ListObjectsV2" else None)
    with pytest.raises(StorageError, match="does not know ListObjectsV2"):
        list_backups(database="shop")


def prune_and_sweep(proxy: FaultProxy, repository: str, leftovers: Callable[[], list[str]]) -> None:
    """Let prune delete one of two backups, and remove what a failed backup has left."""
    shelf = Shelf(proxy.client(), repository)
    old, new = (shelf.put_backup("shop", LONG_AGO + timedelta(days=days)) for days in (0, 1))
    shelf.put(f"shop/{old}/pack-0001.tar.zst")
    failed = id_at(LONG_AGO, 7)
    for name in ("begun", "pack-0001.tar.zst", "pack-0002.tar.zst"):
        shelf.put(f"shop/{failed}/{name}")
    assert Repository(proxy.client(), repository).remove_data("shop", failed) == 3
    prune = PgS3PruneOperator(task_id="p", repository=repository, keep_last=1, aws_conn_id="aws")
    assert prune.execute({})["counts"]["deleted"] == 1
    assert [key.removeprefix("some/prefix/shop/") for key in leftovers()] == [f"{new}.json"]


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed"), (400, "MissingContentMD5")]
)
def test_a_store_without_bulk_deletes_gets_single_ones(
    proxy: FaultProxy, repository: str, leftovers: Callable[[], list[str]], status: int, code: str
) -> None:
    proxy.reset(NoDeleteObjects(status, code))
    prune_and_sweep(proxy, repository, leftovers)
    # Each who deletes asks once, and remembers.
    assert len(proxy.faults) == 2


def test_a_store_without_bulk_deletes_that_refuses_a_single_one_is_told_of(
    proxy: FaultProxy, repository: str
) -> None:
    shelf = Shelf(proxy.client(), repository)
    for days in (0, 1):
        shelf.put_backup("shop", LONG_AGO + timedelta(days=days))

    def rule(request: Request) -> Fault | None:
        no_bulk = NoDeleteObjects(501, "NotImplemented")(request)
        return no_bulk or (Refuse(403, "AccessDenied") if request.operation == "DeleteObject" else None)

    proxy.reset(rule)
    prune = PgS3PruneOperator(task_id="p", repository=repository, keep_last=1, aws_conn_id="aws")
    with pytest.raises(StorageError, match=r"cannot delete s3://.*\.json: AccessDenied"):
        prune.execute({})


def test_bulk_deletes_carry_an_md5_sum_where_checksums_are_off(
    proxy: FaultProxy, connections, repository: str, leftovers: Callable[[], list[str]]
) -> None:
    proxy.config_kwargs = {**proxy.config_kwargs, "request_checksum_calculation": "when_required"}
    connections.set("aws", proxy.airflow_connection())
    proxy.reset(OnlyMD5())
    prune_and_sweep(proxy, repository, leftovers)
    assert proxy.faults == []
    assert [request for request in proxy.requests if request.operation == "DeleteObjects"]


ACCESS_POINT = "arn:aws:s3:us-east-1:123456789012:accesspoint/backups"


def test_the_arn_of_an_access_point_may_be_the_bucket(
    pg18: Cluster,
    database: str,
    s3: S3Server,
    bucket: str,
    connections,
    back_up: Callable[..., dict],
    restore: Callable[..., dict],
    list_backups: Callable[..., list[dict]],
    new_name: Callable[..., str],
) -> None:
    repository = f"s3://{ACCESS_POINT}/some/prefix"
    with FaultProxy(s3, hosts={"backups-123456789012.s3.example.test": bucket}) as proxy:
        through = {
            "endpoint_url": "http://s3.example.test",
            "config_kwargs": {"proxies": {"http": proxy.endpoint_url}},
        }
        connections.set("aws", s3.airflow_connection(**through))
        # As AWS answers for an object that has no lock; moto fails.
        no_lock = Refuse(404, "NoSuchObjectLockConfiguration")
        proxy.reset(lambda request: no_lock if request.query == "retention" else None)
        # Those of one second are ordered by the rest of their ids.
        done = sorted((back_up(pg18, database, repository=repository) for _ in range(2)), key=lambda of: of["uri"])
        assert done[0]["uri"].startswith(f"{repository}/test%20")
        verify = PgS3VerifyOperator(task_id="v", backup=done[1]["uri"], aws_conn_id="aws", level="checksum")
        assert verify.execute({})["evidence"].startswith(repository)
        assert restore(pg18, new_name(pg18), backup=done[1]["uri"])["rows"] == 200_001
        prune = PgS3PruneOperator(task_id="p", repository=repository, keep_last=1, aws_conn_id="aws")
        assert prune.execute({})["counts"]["deleted"] == 1
        assert [row["uri"] for row in list_backups(repository=repository)] == [done[1]["uri"]]
        # An access point tells nothing of the bucket's locks: each object is asked for.
        asked = {request.query for request in proxy.requests}
        assert "object-lock" not in asked
        assert "retention" in asked


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
