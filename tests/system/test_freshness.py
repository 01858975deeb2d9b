"""Airflow runs the sensor: the shipped DAG, and one that is deferred until the backup comes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.models.trigger import Trigger
from airflow.models.xcom import XCOM_RETURN_KEY, XComModel
from airflow.sdk import DAG
from airflow.utils.session import create_session

from airflow_pg_s3.sensors.freshness import PgS3BackupFreshnessSensor
from airflow_pg_s3.triggers import freshness as triggers
from tests.support.airflow_versions import DagBag, DagSerialization, sync_bag_to_db
from tests.support.stored_backups import RESTORED, Shelf
from tests.system.conftest import BUNDLE

DAGS = Path(__file__).parents[2] / "dags"


@pytest.fixture
def shelf(shop) -> Shelf:
    return Shelf(shop.s3.client(), f"s3://{shop.bucket}/backups")


@pytest.fixture
def run_sensor(airflow_database, shop):
    """(**arguments) → the state of a DAG run of the one sensor, deferrable, and what it returned."""

    def run(**arguments):
        with DAG(dag_id="waits_for_a_backup", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
            PgS3BackupFreshnessSensor(
                task_id="wait",
                repository=f"s3://{shop.bucket}/backups",
                database="{{ 'sh' ~ 'op' }}",
                max_age=timedelta(hours=26),
                poke_interval=0,
                deferrable=True,
                **arguments,
            )
        bag = DagBag("/dev/null")
        bag.bag_dag(dag)
        sync_bag_to_db(bag, BUNDLE, None)
        done = dag.test(logical_date=None)
        with create_session() as session:
            stored = session.scalars(
                XComModel.get_many(run_id=done.run_id, dag_ids=dag.dag_id, key=XCOM_RETURN_KEY)
            ).all()
            (ti,) = done.get_task_instances()
            return str(ti.state), [XComModel.deserialize_value(xcom) for xcom in stored]

    return run


def test_the_shipped_dag_looks_every_hour_and_is_set_up_by_the_environment(monkeypatch):
    monkeypatch.setenv("PG_S3_MAX_AGE_HOURS", "1.5")
    dag = DagBag(DAGS).dags["pg_s3_freshness"]
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == ("30 * * * *", False, 1)
    asked = {task.task_id: (task.max_age, task.verified_only, task.timeout) for task in dag.tasks}
    assert asked == {
        "backed_up": (timedelta(hours=1.5), False, 0),
        "verified": (timedelta(hours=36), True, 0),
    }
    assert set(DagSerialization.from_dict(DagSerialization.to_dict(dag)).task_ids) == set(asked)
    monkeypatch.setenv("PG_S3_MAX_VERIFIED_AGE_HOURS", "0")
    monkeypatch.setenv("PG_S3_FRESHNESS_SCHEDULE", "")
    dag = DagBag(DAGS).dags["pg_s3_freshness"]
    assert (dag.schedule, dag.task_ids) == (None, ["backed_up"])


def test_the_shipped_dag_fails_until_there_is_a_backup_and_then_until_it_is_verified(shop, shelf, run_dag):
    none = run_dag("pg_s3_freshness")
    assert (none.state, none.tasks) == ("failed", {"backed_up": "failed", "verified": "failed"})
    made = run_dag("pg_s3_backup").results["backup"]
    unverified = run_dag("pg_s3_freshness")
    assert unverified.tasks == {"backed_up": "success", "verified": "failed"}
    shelf.put_evidence(made["database"], made["backup_id"], RESTORED, at=datetime.now(UTC))
    verified = run_dag("pg_s3_freshness")
    assert (verified.state, set(verified.tasks.values())) == ("success", {"success"})
    assert verified.results["backed_up"]["uri"] == verified.results["verified"]["uri"] == made["uri"]
    assert verified.results["verified"]["verified"] is True


def test_a_deferred_sensor_is_resumed_by_its_trigger_when_the_backup_has_come(shelf, run_sensor, monkeypatch):
    looked, look = [], triggers.look

    def look_while_it_comes(repository, **asked):
        if len(looked) == 2:
            shelf.put_backup("shop", datetime.now(UTC))
        looked.append(asked["database"])
        return look(repository, **asked)

    monkeypatch.setattr(triggers, "look", look_while_it_comes)
    state, (facts,) = run_sensor(verified_only=False, timeout=3600)
    assert state == "success"
    assert looked == ["shop"] * 3
    assert facts["uri"] == shelf.uri("shop", facts["backup_id"])
    assert facts["age_seconds"] >= 0


@pytest.mark.parametrize(("arguments", "expected"), [({}, "failed"), ({"soft_fail": True}, "skipped")], ids=str)
def test_a_deferred_sensor_ends_at_its_timeout(shelf, run_sensor, arguments, expected):
    shelf.put_backup("shop", datetime.now(UTC))
    assert run_sensor(timeout=0.001, **arguments) == (expected, [])


def test_airflow_keeps_the_triggers_arguments(monkeypatch):
    """As the triggerer gets them from the database."""
    made = triggers.PgS3BackupFreshnessTrigger(
        repository="s3://b/x",
        database="shop",
        max_age_seconds=60.0,
        verified_only=True,
        aws_conn_id=None,
        poke_interval=1.0,
        deadline="2026-11-22T03:00:00+00:00",
    )
    path, arguments = made.serialize()
    stored = Trigger(classpath=path, kwargs=arguments)
    assert triggers.PgS3BackupFreshnessTrigger(**stored.kwargs).serialize() == made.serialize()
