"""Who is refused for good, by a server or by a pooler in front of it, is told so once: no retry would help."""

import json
import os
from collections.abc import Callable, Iterator

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.operators.backup import PgS3BackupOperator
from testkit import pgbouncer as pgbouncer
from testkit.pgbouncer import PgBouncer
from testkit.postgres import Cluster, newest
from tests.integration.conftest import only_on

pytestmark = only_on("moto")

POOLED = {
    "no such database: elsewhere": {"schema": "elsewhere"},
    "SASL authentication failed": {"password": "not this one"},
    "unsupported startup parameter: options; connect to the server itself, or": {
        "extra": {"options": "-c work_mem=8MB"}
    },
    "server does not support SSL, but SSL was required; enable it on the server, or": {
        "extra": {"sslmode": "require"}
    },
    'database "shop" does not exist': {},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(installation=newest(16)) as cluster:
        yield cluster


@pytest.fixture
def back_up_over(connections, repository: str, spool_dir) -> Callable[..., dict]:
    """(connection as JSON, **changes to it) → what the backup task returns."""

    def run(connection: str, **changes: object) -> dict:
        connections.set("pg_source", json.dumps(json.loads(connection) | changes))
        return PgS3BackupOperator(
            task_id="back_up",
            repository=repository,
            postgres_conn_id="pg_source",
            aws_conn_id="aws",
            spool_dir=str(spool_dir),
        ).execute(context={})

    return run


def test_a_server_that_rejects_by_its_pg_hba(cluster: Cluster, back_up_over) -> None:
    rules = cluster.data_dir / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("host template1 all 127.0.0.1/32 reject\n" + before)
    cluster.psql("select pg_reload_conf()")
    refused = r"pg_hba.conf rejects connection for host .*; allow it in the server's pg_hba.conf"
    with pytest.raises(AirflowFailException, match=refused):
        back_up_over(cluster.airflow_connection("template1"))
    rules.write_text(before)
    cluster.psql("select pg_reload_conf()")


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ("-c geko=on", 'unrecognized configuration parameter "geko"; correct .* pg_source\'s options'),
        (
            "-c work_mem=much",
            'invalid value for parameter "work_mem": "much".*; correct .* pg_source\'s options',
        ),
    ],
)
def test_a_server_that_does_not_take_the_options(
    cluster: Cluster, back_up_over, options: str, refused: str
) -> None:
    with pytest.raises(AirflowFailException, match=f"(?s){refused}"):
        back_up_over(cluster.airflow_connection(), extra={"options": options})


@pytest.fixture
def pooler(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[PgBouncer]:
    """It knows the database shop alone, which the server does not have, and no options."""
    reason = PgBouncer.available()
    if reason is not None:
        if os.environ.get("PG_S3_REQUIRE_TOOLS") == "1":
            pytest.fail(f"PG_S3_REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)
    text = pgbouncer.CONFIGURATION.replace("\n* =", "\nshop =").replace(",options", "")
    monkeypatch.setattr(pgbouncer, "CONFIGURATION", text)
    with PgBouncer(cluster, pool_mode="session") as pooler:
        yield pooler


def test_a_pooler_that_refuses(pooler: PgBouncer, back_up_over) -> None:
    for refused, changes in POOLED.items():
        with pytest.raises(AirflowFailException, match=refused):
            back_up_over(pooler.airflow_connection("shop"), **changes)
