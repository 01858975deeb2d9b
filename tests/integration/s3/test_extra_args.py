"""Arguments that each request must carry reach every request of every operator: SSE-C, who pays, whose bucket."""

import base64
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from botocore.exceptions import ClientError

from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.hooks import pg_s3 as hook
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.prune import PgS3PruneOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from airflow_pg_s3.sensors.freshness import PgS3BackupFreshnessSensor
from testkit.database_equality import compare_databases
from testkit.fault_proxy import DENIED, Fault, FaultProxy, Refuse, Request
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import only_on

MIB = 1 << 20
FILL = """
create table large as select i, md5(i::text) || md5((i * 7)::text) || md5((i * 11)::text) as a
    from generate_series(1, 200000) i;
create table small as select 1 as i;
"""
KEY = secrets.token_bytes(32)
SSE_C = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64encode(KEY).decode()}


@pytest.fixture
def database(pg18: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg18, FILL)


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:

    def request(**arguments: object) -> BackupRequest:
        return BackupRequest(**arguments, run_bytes=5 * MIB)

    monkeypatch.setattr(hook, "BackupRequest", request)


@pytest.fixture
def proxy(s3: S3Server, connections) -> Iterator[FaultProxy]:
    with FaultProxy(s3) as running:
        connections.set("aws", running.airflow_connection())
        yield running


@pytest.fixture
def use_everything(
    pg18: Cluster, database: str, repository: str, spool_dir, connections, new_name: Callable[..., str]
) -> Callable[..., None]:
    """(**arguments of each operator): back up twice, list, verify, restore, look for freshness, prune."""

    def run(**arguments: object) -> None:
        s3 = {"aws_conn_id": "aws", **arguments}
        connections.source(pg18, database)
        copy = new_name(pg18)
        connections.target(pg18, copy)
        backup = PgS3BackupOperator(
            task_id="b", repository=repository, postgres_conn_id="pg_source", spool_dir=str(spool_dir), **s3
        )
        # The second one looks for what killed backups have left.
        backup.execute({})
        uri = backup.execute({})["uri"]
        PgS3VerifyOperator(
            task_id="v", backup=uri, postgres_conn_id="pg_source", spool_dir=str(spool_dir), **s3
        ).execute({})
        restored = PgS3RestoreOperator(
            task_id="r", backup=uri, postgres_conn_id="pg_target", database=copy, spool_dir=str(spool_dir), **s3
        ).execute({})
        assert restored["rows"] == 200_001
        assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []
        common = {"repository": repository, "database": database}
        listed = PgS3ListBackupsOperator(task_id="l", repository=repository, **s3).execute({})
        assert [row["verified"] for row in listed] == [True, False]
        fresh = PgS3BackupFreshnessSensor(task_id="f", max_age=timedelta(hours=1), timeout=0, **common, **s3)
        assert fresh.execute({})["uri"] == uri
        pruned = PgS3PruneOperator(task_id="p", keep_last=1, **common, **s3).execute({})
        assert (pruned["counts"]["kept"], pruned["counts"]["deleted"], pruned["counts"]["unreadable"]) == (1, 1, 0)

    return run


@only_on("ceph")
def test_every_operator_reads_and_writes_with_the_customers_key_of_the_connection(
    s3: S3Server,
    connections,
    bucket: str,
    use_everything: Callable[..., None],
    leftovers: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    connections.set("aws", s3.airflow_connection(service_config={"s3": {"extra_args": SSE_C}}))
    use_everything()
    keys = leftovers()
    assert {re.split(r"[./]", key)[-1] for key in keys} == {"json", "zst", "settled", "pruned"}
    for key in keys:
        with pytest.raises(ClientError, match="400"):
            s3.client().head_object(Bucket=bucket, Key=key)
    assert SSE_C["SSECustomerKey"] not in caplog.text


@only_on("moto")
def test_every_request_says_who_pays_and_whose_bucket_it_must_be(
    proxy: FaultProxy, use_everything: Callable[..., None]
) -> None:
    expected = {"x-amz-request-payer": "requester", "x-amz-expected-bucket-owner": "123456789012"}

    def strict(request: Request) -> Fault | None:
        sent = {name.lower(): value for name, value in request.headers.items()}
        return None if expected.items() <= sent.items() else DENIED

    # As every bucket answers that has no lock; this is the one request that has no payer.
    def rule(request: Request) -> Fault | None:
        if request.query == "object-lock":
            return Refuse(404, "ObjectLockConfigurationNotFoundError")
        return strict(request)

    proxy.reset(rule)
    use_everything(
        s3_extra_args={"RequestPayer": "requester", "ExpectedBucketOwner": "123456789012"},
    )
    assert {request.query for request, _ in proxy.faults} == {"object-lock"}
    assert {"PutObject", "GetObject", "HeadObject", "ListObjectsV2", "DeleteObjects"} <= {
        request.operation for request in proxy.requests
    }


@only_on("ceph")
def test_without_the_key_each_operator_says_what_is_missing(
    pg18: Cluster, database: str, back_up, restore, list_backups, new_name: Callable[..., str]
) -> None:
    done = back_up(pg18, database, s3_extra_args=SSE_C)
    for attempt in (list_backups, lambda: restore(pg18, new_name(pg18), backup=done["uri"])):
        with pytest.raises(AirflowFailException, match="SSECustomerKey"):
            attempt()


@only_on("moto")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"SSECustomerKey": SSE_C["SSECustomerKey"]}, "takes both SSECustomerAlgorithm and SSECustomerKey"),
        (SSE_C | {"SSECustomerKey": "short"}, "must be 32 bytes, or these in Base64"),
        ({"SSECustomerKy": "x"}, "has an argument 'SSECustomerKy'"),
    ],
    ids=["half of it", "not a key", "misspelt"],
)
def test_what_makes_no_sense_is_refused_before_anything_is_stored(
    pg18: Cluster, database: str, back_up, leftovers, arguments: dict, says: str
) -> None:
    with pytest.raises(AirflowFailException, match=says):
        back_up(pg18, database, s3_extra_args=arguments)
    assert leftovers() == []
