"""Airflow runs a task of one's own that calls the hook, and hands an item of what a task returns to another."""

from datetime import UTC, datetime

from airflow.sdk import DAG, task

from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.hooks.pg_s3 import PgS3Hook
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from testkit.database_equality import compare_databases
from tests.support.airflow_versions import DagBag, sync_bag_to_db
from tests.system.conftest import BUNDLE


def test_a_task_of_ones_own_backs_up_and_the_listed_backup_is_restored(airflow_database, shop):
    repository = f"s3://{shop.bucket}/backups"

    @task
    def back_up() -> str:
        return PgS3Hook(repository).back_up(labels={"by": "hand"})["uri"]

    with DAG(dag_id="of_ones_own", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        latest = PgS3ListBackupsOperator(task_id="latest", repository=repository, database=shop.database, limit=1)
        back_up() >> latest
        PgS3RestoreOperator(
            task_id="restore",
            backup=latest.output[0]["uri"],
            postgres_conn_id="postgres_target",
            database=shop.target,
        )
    bag = DagBag("/dev/null")
    bag.bag_dag(dag)
    sync_bag_to_db(bag, BUNDLE, None)
    done = dag.test(logical_date=None)
    assert {ti.task_id: str(ti.state) for ti in done.get_task_instances()} == dict.fromkeys(
        ("back_up", "latest", "restore"), "success"
    )
    found = PgS3Hook(repository).latest(shop.database)
    assert found["labels"] == {"by": "hand"}
    # The backup says which task has made it.
    producer = read_manifest(shop.s3.client(), found["uri"]).manifest.producer
    assert (producer.dag_id, producer.task_id) == ("of_ones_own", "back_up")
    assert compare_databases(shop.cluster.dsn(shop.database), shop.cluster.dsn(shop.target)) == []
