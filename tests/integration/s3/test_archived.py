"""Backups in an archive storage class are listed, pruned, refused in one sentence, and given out with `thaw`."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_pg_s3.hooks import options
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.prune import PgS3PruneOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.fault_proxy import Fault, FaultProxy, Refuse, Request
from testkit.postgres import Cluster
from testkit.s3 import Moto, S3Server
from tests.integration.conftest import only_on
from tests.support.stored_backups import RESTORED, Shelf

pytestmark = only_on("moto")
ARCHIVE = {"StorageClass": "DEEP_ARCHIVE"}
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def database(pg18: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg18, "create table t as select i from generate_series(1, 1000) i")


@pytest.fixture
def proxy(s3: S3Server, connections) -> Iterator[FaultProxy]:
    with FaultProxy(s3) as running:
        connections.set("aws", running.airflow_connection())
        yield running


@pytest.fixture
def slow(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """S3 gives out what it was asked for at the second look, and we look without a pause."""
    monkeypatch.setattr(options, "THAW_INTERVAL", timedelta(0))
    moto.give_out_archived_after(2)
    yield
    moto.give_out_archived_after(None)


@pytest.fixture
def archive(s3: S3Server, bucket: str) -> Callable[[str], None]:
    """(key): move an object of the repository into an archive class, as earlier releases stored it."""

    def move(key: str) -> None:
        client = s3.client()
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        client.put_object(Bucket=bucket, Key=key, Body=body, **ARCHIVE)

    return move


def test_what_is_read_each_day_stays_in_the_default_class(
    pg18: Cluster,
    database: str,
    back_up,
    list_backups,
    repository: str,
    proxy: FaultProxy,
    s3: S3Server,
    bucket: str,
) -> None:
    done = [back_up(pg18, database, s3_extra_args=ARCHIVE) for _ in range(2)]
    verify = PgS3VerifyOperator(
        task_id="v", backup=done[0]["uri"], level="checksum", aws_conn_id="aws", s3_extra_args=ARCHIVE
    )
    with pytest.raises(AirflowFailException, match=r"could not verify: .* lies in an archive storage class"):
        verify.execute({})
    classes = {
        request.key.rpartition("/")[2].partition(".")[2] or "begun": request.headers.get("x-amz-storage-class")
        for request in proxy.requests
        if request.operation == "PutObject"
    }
    assert classes == {
        "begun": None,
        "tar.zst": "DEEP_ARCHIVE",
        "json.zst": None,
        "json": None,
        "verified.json": None,
    }
    newest, oldest = list_backups()
    assert (oldest["uri"], oldest["verification"]["outcome"]) == (done[0]["uri"], "could not verify")
    prune = PgS3PruneOperator(
        task_id="p", repository=repository, keep_last=1, aws_conn_id="aws", s3_extra_args=ARCHIVE
    )
    assert prune.execute({})["counts"]["deleted"] == 1
    assert [row["uri"] for row in list_backups()] == [newest["uri"]]
    marks = [request for request in proxy.requests if request.key.endswith("/pruned")]
    assert [request.headers.get("x-amz-storage-class") for request in marks] == [None]


def test_an_archived_backup_is_refused_before_anything_is_touched(
    pg18: Cluster, database: str, back_up, restore, new_name: Callable[..., str]
) -> None:
    done = back_up(pg18, database, s3_extra_args=ARCHIVE)
    copy = new_name(pg18)
    with pytest.raises(
        AirflowFailException, match=r'2 objects of s3://.* such as .*: restore with thaw="Standard"'
    ):
        restore(pg18, copy, backup=done["uri"])
    assert pg18.psql(f"select count(*) from pg_database where datname = '{copy}'").strip() == "0"


def test_a_restore_asks_for_what_is_archived_and_waits_for_it(
    pg18: Cluster,
    database: str,
    back_up,
    restore,
    archive,
    new_name: Callable[..., str],
    proxy: FaultProxy,
    slow: None,
) -> None:
    done = back_up(pg18, database, s3_extra_args=ARCHIVE)
    archive(done["key"])
    proxy.reset()
    assert restore(pg18, new_name(pg18), backup=done["uri"], thaw="Bulk", thaw_days="2")["rows"] == 1000
    asked = [request for request in proxy.requests if request.operation == "RestoreObject"]
    assert len({request.key for request in asked}) == len(asked) == 3
    assert all(b"<Days>2</Days>" in request.body and b"<Tier>Bulk</Tier>" in request.body for request in asked)
    looks = [request.key for request in proxy.requests if request.operation == "HeadObject"]
    # Each is looked at before it is asked for, while S3 is at it, and when it is done.
    assert all(looks.count(request.key) >= 3 for request in asked)
    proxy.reset()
    restore(pg18, new_name(pg18), backup=done["uri"])
    assert "RestoreObject" not in {request.operation for request in proxy.requests}


def test_what_lies_in_the_folder_of_an_older_backup_is_asked_for_as_well(
    pg18: Cluster,
    new_database: Callable[..., str],
    back_up,
    restore,
    archive,
    leftovers,
    new_name: Callable[..., str],
    proxy: FaultProxy,
    slow: None,
) -> None:
    database = new_database(pg18, "create table t as select i, md5(i::text) from generate_series(1, 40000) i")
    older, done = back_up(pg18, database), back_up(pg18, database)
    assert done["new_chunks"] == 0
    for key in leftovers():
        if f"/{older['backup_id']}/" in key:
            archive(key)
    message = rf"1 objects of .* such as .*/{older['backup_id']}/000001"
    with pytest.raises(AirflowFailException, match=message):
        restore(pg18, new_name(pg18), backup=done["uri"])
    proxy.reset()
    assert restore(pg18, new_name(pg18), backup=done["uri"], thaw="Bulk")["rows"] == 40000
    # Nothing that only the older one needs.
    asked = [request.key.rpartition("/")[2] for request in proxy.requests if request.operation == "RestoreObject"]
    assert asked == ["000001.zst"]


@dataclass(frozen=True)
class ArchivedByItself(Fault):
    """HeadObject of what INTELLIGENT_TIERING has moved into an archive."""

    async def happen(self, proxy: FaultProxy, request: Request, connection: web.Request) -> web.StreamResponse:
        answer = await proxy.forward(request)
        return web.Response(headers={**answer.headers, "x-amz-archive-status": "ARCHIVE_ACCESS"})


def test_what_was_archived_automatically_comes_back_for_good(
    pg18: Cluster, database: str, back_up, restore, new_name: Callable[..., str], proxy: FaultProxy, slow: None
) -> None:
    done = back_up(pg18, database, s3_extra_args={"StorageClass": "INTELLIGENT_TIERING"})
    asked: list[Request] = []

    def rule(request: Request) -> Fault | None:
        if request.operation == "RestoreObject":
            asked.append(request)
            return Refuse(409, "RestoreAlreadyInProgress")
        is_back = request.key in [one.key for one in asked]
        archived = request.operation == "HeadObject" and request.key.endswith(".zst") and not is_back
        return ArchivedByItself() if archived else None

    proxy.reset(rule)
    assert restore(pg18, new_name(pg18), backup=done["uri"], thaw="Standard")["rows"] == 1000
    assert len(asked) == 2
    assert not any(b"Days" in request.body for request in asked)


def test_a_restore_that_defers_waits_in_the_triggerer(
    pg18: Cluster, database: str, back_up, new_name: Callable[..., str], connections, spool_dir, slow: None
) -> None:
    done = back_up(pg18, database, s3_extra_args=ARCHIVE)
    copy = new_name(pg18)
    connections.target(pg18, copy)
    operator = PgS3RestoreOperator(
        task_id="r", backup=done["uri"].rpartition("/")[0] + "/latest", postgres_conn_id="pg_target",
        database=copy, aws_conn_id="aws", spool_dir=str(spool_dir), thaw="Standard", deferrable=True,
    )  # fmt: skip
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({})
    # Whichever is the latest by then.
    assert deferred.value.kwargs == {"backup": done["uri"]}
    for _ in range(5):
        try:
            waited_for = {"event": None, **deferred.value.kwargs}
            assert operator.resume_execution(deferred.value.method_name, waited_for, {})["rows"] == 1000
            break
        except TaskDeferred:
            pass
    else:
        pytest.fail("it has not come to its end")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"thaw": "Fast"}, "thaw must be"), ({"thaw": "Bulk", "thaw_days": 0}, "thaw_days must")],
)
def test_a_thaw_that_makes_no_sense_is_refused(
    pg18: Cluster, restore, new_name: Callable[..., str], bucket: str, arguments: dict, says: str
) -> None:
    with pytest.raises(AirflowFailException, match=says):
        restore(pg18, new_name(pg18), backup=f"s3://{bucket}/x.json", **arguments)


def test_another_tools_archive_is_given_out_too(
    pg16: Cluster, small, restore, new_name: Callable[..., str], s3: S3Server, bucket: str, slow: None
) -> None:
    s3.client().put_object(Bucket=bucket, Key="small.dump", Body=small.archive("custom"), **ARCHIVE)
    uri = f"s3://{bucket}/small.dump"
    with pytest.raises(AirflowFailException, match=r"small\.dump lies in an archive storage class"):
        restore(pg16, new_name(pg16), backup=uri)
    assert restore(pg16, new_name(pg16), backup=uri, thaw="Standard")["tables"] == 2


def test_one_archived_manifest_hides_no_other_and_stops_no_prune(
    s3: S3Server, repository: str, archive, list_backups, connections, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PgS3ListBackupsOperator, "log", logging.getLogger("listing"))
    shelf = Shelf(s3.client(), repository)
    made = [shelf.put_backup("shop", LONG_AGO + timedelta(days=days)) for days in range(4)]
    shelf.put_evidence("shop", made[2], RESTORED, at=LONG_AGO)
    archive(f"some/prefix/shop/{made[1]}.json")
    archive(f"some/prefix/shop/{made[2]}.verified.json")
    assert [(row["backup_id"], row["verified"]) for row in list_backups()] == [
        (made[3], False), (made[2], False), (made[0], False),
    ]  # fmt: skip
    assert (
        f"left out: s3://{repository.removeprefix('s3://')}/shop/{made[1]}.json lies in an archive" in caplog.text
    )
    assert f"not verified: {repository}/shop/{made[2]}.verified.json lies in an archive" in caplog.text
    prune = PgS3PruneOperator(task_id="p", repository=repository, keep_last=1, aws_conn_id="aws")
    done = prune.execute({})
    assert {entry["backup_id"]: entry["reasons"] for entry in done["kept"]} == {
        made[3]: ["last 1"], made[2]: ["its evidence cannot be read"],
    }  # fmt: skip
    assert [entry["backup_id"] for entry in done["unreadable"]] == [made[1]]
    assert [entry["backup_id"] for entry in done["deleted"]] == [made[0]]


def test_if_all_manifests_are_archived_that_is_said(s3: S3Server, repository: str, archive, list_backups) -> None:
    made = Shelf(s3.client(), repository).put_backup("shop", LONG_AGO)
    archive(f"some/prefix/shop/{made}.json")
    with pytest.raises(AirflowFailException, match="lies in an archive storage class"):
        list_backups(fail_if_empty=False)


def test_an_archived_record_of_a_dead_backup_stops_no_other(
    pg18: Cluster, database: str, s3: S3Server, repository: str, archive, back_up
) -> None:
    Shelf(s3.client(), repository).put(f"{database.replace(' ', '%20')}/20260101T000000Z-abcdef/begun")
    archive(f"some/prefix/{database.replace(' ', '%20')}/20260101T000000Z-abcdef/begun")
    assert back_up(pg18, database)["rows"] == 1000
