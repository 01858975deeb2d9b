"""A backup in a second repository: complete, or not there; what is shared is copied once."""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from airflow_pg_s3.core.copy.copy import CopyRequest, CopyResult, copy
from airflow_pg_s3.core.copy.transfer import Transfer
from airflow_pg_s3.core.errors import Cancelled, DataConflict, InputError, IntegrityError
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import Pruned, PruneRequest, prune
from airflow_pg_s3.core.s3 import requests
from airflow_pg_s3.core.s3.errors import OutcomeUnknown
from airflow_pg_s3.operators.copy import PgS3CopyOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.postgres import Cluster
from testkit.s3 import Moto, S3Server
from tests.integration.conftest import only_on

LOG = logging.getLogger(__name__)
# Several runs: half of it is noise, which does not compress.
FILL = """
create table large as
select i, md5(i::text) || md5((i * 7)::text) || md5((i * 11)::text) as noise from generate_series(1, 150000) as i;
create table small as select i from generate_series(1, 9) as i;
"""
APPEND = "insert into large select i, md5(i::text) from generate_series(200001, 240000) as i"


@pytest.fixture
def source(pg18: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg18, FILL)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[S3Server]:
    """A store of its own, that knows nothing of the other one."""
    with Moto() as running:
        yield running


@pytest.fixture
def other(s3: S3Server) -> Repository:
    """A repository in another bucket of the same store."""
    return Repository(s3.client(), f"s3://{s3.create_bucket(new_bucket())}/copies")


@pytest.fixture
def far(elsewhere: S3Server) -> Repository:
    """A repository in another store."""
    return Repository(elsewhere.client(), f"s3://{elsewhere.create_bucket(new_bucket())}/copies")


@pytest.fixture
def copied(s3: S3Server) -> Callable[..., CopyResult]:
    """(backup, other repository) → the result."""

    def run(backup: dict, other: Repository, cancel: threading.Event | None = None) -> CopyResult:
        request = CopyRequest(backup=backup["uri"])
        return copy(request, s3.client(), other, cancel=cancel or threading.Event(), log=LOG)

    return run


def new_bucket() -> str:
    return f"copies-{uuid.uuid4().hex[:12]}"


def objects_of(repository: Repository) -> dict[str, int]:
    listed = repository.client.list_objects_v2(Bucket=repository.bucket).get("Contents", [])
    return {entry["Key"]: entry["Size"] for entry in listed}


def data_bytes_of(repository: Repository) -> int:
    """All but manifests and marks."""
    return sum(size for key, size in objects_of(repository).items() if not key.endswith((".json", "/settled")))


def body_of(client, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def pruned(repository: Repository, database: str, keep_last: int = 1) -> Pruned:
    request = PruneRequest(retention=RetentionPolicy(keep_last=keep_last), database=database)
    return prune(request, repository, cancel=threading.Event(), log=LOG)[0]


@pytest.mark.parametrize("place", ["other", "far"])
def test_what_the_other_side_lacks_is_brought_and_the_copy_is_proved_there(
    request, pg18, source, back_up, copied, s3, elsewhere, connections, place
):
    there: Repository = request.getfixturevalue(place)
    first = back_up(pg18, source)
    done = copied(first, there)
    assert done.uri == f"s3://{there.bucket}/copies/{first['key'].split('/', 2)[2]}"
    assert body_of(there.client, done.uri) == body_of(s3.client(), first["uri"])
    assert done.copied_bytes == data_bytes_of(there)
    pg18.psql(APPEND, source)
    second = back_up(pg18, source)
    assert second["new_chunks"] < second["chunks"]
    again = copied(second, there)
    # A run is not as long as its chunks: it has a list of them at its end.
    assert 0 < again.copied_bytes < done.copied_bytes / 2
    assert copied(second, there).copied_objects == 0
    connections.set("there", (s3 if place == "other" else elsewhere).airflow_connection())
    verification = PgS3VerifyOperator(
        task_id="verify", backup=again.uri, aws_conn_id="there", postgres_conn_id=None
    ).execute({})
    assert (verification["outcome"], verification["rows"]) == ("verified", second["rows"])
    assert not any(key.endswith("/begun") for key in objects_of(there))


@only_on("moto")
def test_the_operator_copies_the_latest_between_two_connections(
    pg18, source, back_up, far, elsewhere, connections, repository
):
    backup = back_up(pg18, source)
    connections.set("there", elsewhere.airflow_connection())
    to = f"s3://{far.bucket}/copies"
    from_here = {"aws_conn_id": "aws", "to_repository": to, "to_aws_conn_id": "there"}
    done = PgS3CopyOperator(task_id="copy", repository=repository, database=source, **from_here).execute({})
    assert (done["source"], done["backup_id"]) == (backup["uri"], backup["backup_id"])
    assert [ref.uri for ref in far.backups(source)] == [done["uri"]]
    again = PgS3CopyOperator(task_id="copy", backup=backup["uri"], **from_here).execute({})
    assert (again["uri"], again["copied_objects"], again["copied_bytes"]) == (done["uri"], 0, 0)


@only_on("moto")
def test_a_copy_that_was_stopped_is_no_backup_and_the_next_attempt_brings_the_rest(
    pg18, source, back_up, copied, far, monkeypatch
):
    backup = back_up(pg18, source)
    bring, cancel, brought = Transfer.bring, threading.Event(), []

    def stop_after_two(self, key, size, **arguments):
        if len(brought) == 2:
            cancel.set()
            raise Cancelled("told to stop")
        bring(self, key, size, **arguments)
        brought.append(size)

    monkeypatch.setattr(Transfer, "bring", stop_after_two)
    monkeypatch.setattr("airflow_pg_s3.core.s3.parallel.AT_ONCE", 1)
    with pytest.raises(Cancelled):
        copied(backup, far, cancel)
    assert far.backups(backup["database"]) == []
    assert not any(key.endswith("/begun") for key in objects_of(far))
    monkeypatch.setattr(Transfer, "bring", bring)
    done = copied(backup, far)
    assert done.copied_objects > 0
    assert done.copied_bytes + sum(brought) == data_bytes_of(far)
    assert [ref.uri for ref in far.backups(backup["database"])] == [done.uri]


@only_on("moto")
def test_a_copy_whose_manifest_may_yet_come_goes_on_keeping_prunes_away(
    pg18, source, back_up, copied, far, monkeypatch
):
    def lose_the_answer(*_):
        raise OutcomeUnknown("no answer")

    backup = back_up(pg18, source)
    monkeypatch.setattr(requests, "put_if_absent", lose_the_answer)
    with pytest.raises(OutcomeUnknown):
        copied(backup, far)
    assert [key for key in objects_of(far) if key.endswith("/begun")] != []


@only_on("moto")
def test_a_prune_there_keeps_what_copies_share_and_waits_for_one_that_is_under_way(
    pg18, source, back_up, copied, other, s3, connections, assert_restored
):
    first = back_up(pg18, source)
    copied(first, other)
    pg18.psql(APPEND, source)
    second = back_up(pg18, source)
    newer = copied(second, other)
    # As one that was killed leaves it.
    begun = other.base(first["database"]) + "20261127T000000Z-abcdef/begun"
    other.client.put_object(Bucket=other.bucket, Key=begun, Body=b'{"instance": "copy"}')
    assert "20261127T000000Z-abcdef" in (pruned(other, first["database"]).postponed or "")
    other.client.delete_object(Bucket=other.bucket, Key=begun)
    done = pruned(other, first["database"])
    assert done.postponed is None
    assert [ref.uri for ref in other.backups(first["database"])] == [newer.uri]
    assert done.needed_bytes > 0
    assert_restored(pg18, source, pg18, {"uri": newer.uri})


@only_on("moto")
def test_a_damaged_run_is_found_on_the_way_and_named(pg18, source, back_up, copied, far, s3, object_of):
    backup = back_up(pg18, source)
    bucket, key = backup["uri"].removeprefix("s3://").split("/")[0], object_of(backup, "large")
    data = bytearray(s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    data[1000] ^= 1
    s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(data))
    with pytest.raises(IntegrityError, match=key.rpartition("/")[2]):
        copied(backup, far)
    assert far.backups(backup["database"]) == []


@only_on("moto")
def test_what_cannot_be_a_copy_is_refused(pg18, source, back_up, copied, far, s3, object_of, repository):
    backup = back_up(pg18, source)
    with pytest.raises(InputError, match="lies in that repository already"):
        copied(backup, Repository(s3.client(), repository))
    key = far.manifest_key(backup["database"], backup["backup_id"])
    other_backup = back_up(pg18, source)
    other_body = body_of(s3.client(), other_backup["uri"])
    far.client.put_object(Bucket=far.bucket, Key=key, Body=other_body)
    with pytest.raises((DataConflict, IntegrityError), match="another backup"):
        copied(backup, far)
    far.client.delete_object(Bucket=far.bucket, Key=key)
    s3.client().delete_object(Bucket=repository.split("/")[2], Key=object_of(backup, "small"))
    with pytest.raises(IntegrityError, match=r"1 objects of .* are missing, such as .*pack-0001.tar.zst"):
        copied(backup, far)
    assert far.backups(backup["database"]) == []
