"""The verification DAGs, parsed as Airflow does and run with real servers."""

from datetime import timedelta
from pathlib import Path

import pytest
from airflow.models.asset import AssetEvent
from airflow.sdk import AssetAny
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.repository.verification_record import Evidence, read_evidence
from tests.support.airflow_versions import DagBag, ParamValidationError

DAGS = Path(__file__).parents[2] / "dags"
BOTH = ["pg_s3_restore_verification", "pg_s3_verify_new_backup"]


def parse(dag_id):
    return DagBag(DAGS).dags[dag_id]


def evidence_of(shop, made) -> Evidence | None:
    client = shop.s3.client()
    return read_evidence(client, shop.bucket, read_manifest(client, made["uri"]))


def newest_event() -> AssetEvent:
    with create_session() as session:
        event = session.scalars(select(AssetEvent).order_by(AssetEvent.id.desc())).first()
        event.asset  # noqa: B018  loaded while there is a session
        return event


def test_one_runs_every_morning_and_the_other_for_each_new_backup(monkeypatch):
    monkeypatch.setenv("PG_S3_REPOSITORY", "s3://elsewhere/x")
    nightly, triggered = map(parse, BOTH)
    assert (nightly.schedule, nightly.catchup, nightly.max_active_runs) == ("0 6 * * *", False, 1)
    (backup,) = parse("pg_s3_backup").get_task("backup").outlets
    assert [asset.uri for asset in triggered.timetable.asset_condition.objects] == [backup.uri]
    monkeypatch.setenv("PG_S3_FLEET_SERVERS", "eu us")
    fleet = [task.partial_kwargs["outlets"][0] for task in parse("pg_s3_fleet").tasks if "backup" in task.task_id]
    condition = parse(BOTH[1]).timetable.asset_condition
    assert [asset.uri for asset in condition.objects] == [backup.uri, *(asset.uri for asset in fleet)]
    assert isinstance(condition, AssetAny)
    for dag in (nightly, triggered):
        task = dag.get_task("verify")
        assert [asset.uri for asset in task.outlets] == ["s3://elsewhere/x/verified"]
        assert (task.retries, task.execution_timeout) == (3, timedelta(hours=12))


def test_schedule_server_level_and_checks_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PG_S3_VERIFY_SCHEDULE", "0 7 * * 0")
    monkeypatch.setenv("PG_S3_VERIFY_CONN_ID", "scratch")
    monkeypatch.setenv("PG_S3_VERIFY_LEVEL", "checksum")
    monkeypatch.setenv("PG_S3_VERIFY_CHECKS", '["select true"]')
    monkeypatch.setenv("PG_S3_AGE_IDENTITY_CONN_ID", "age")
    nightly, triggered = map(parse, BOTH)
    assert nightly.schedule == "0 7 * * 0"
    for dag in (nightly, triggered):
        assert dag.params["verify_conn_id"] == "scratch"
        assert dag.params["level"] == "checksum"
        assert dag.params["checks"] == ["select true"]
        assert dag.params["age_identity_conn_id"] == "age"
    monkeypatch.setenv("PG_S3_VERIFY_SCHEDULE", "")
    assert parse(BOTH[0]).schedule is None


@pytest.mark.parametrize("dag_id", BOTH)
def test_airflow_can_copy_the_tasks_as_it_does_for_a_part_of_a_dag(dag_id):
    dag = parse(dag_id)
    assert set(dag.partial_subset(dag.task_ids).task_ids) == set(dag.task_ids)


def test_the_latest_backup_is_verified_on_a_throwaway_server_and_the_event_says_so(shop, run_dag):
    run_dag("pg_s3_backup")
    made = run_dag("pg_s3_backup").results["backup"]
    done = run_dag(BOTH[0], checks=["select count(*) > 0 from shop.orders"])
    assert (done.state, done.tasks) == ("success", {"latest": "success", "verify": "success"})
    facts = done.results["verify"]
    assert (facts["outcome"], facts["uri"]) == ("verified", made["uri"])
    assert (facts["tables"], facts["rows"]) == (made["tables"], made["rows"])
    event = newest_event()
    assert (event.asset.uri, event.extra) == (f"s3://{shop.bucket}/backups/verified", facts)
    (found,) = evidence_of(shop, made).verifications
    assert (found.producer.dag_id, found.producer.task_id) == (BOTH[0], "verify")
    assert [check.passed for check in found.checks] == [True]


def test_a_failed_verification_fails_the_run_and_sends_no_event(shop, run_dag):
    made = run_dag("pg_s3_backup").results["backup"]
    before = newest_event().id
    done = run_dag(BOTH[0], checks=["select count(*) = 0 from shop.orders"])
    assert (done.state, done.tasks) == ("failed", {"latest": "success", "verify": "failed"})
    assert newest_event().id == before
    assert not evidence_of(shop, made).is_verified


def test_a_named_server_is_used_and_left_as_it_was(shop, run_dag, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SCRATCH", shop.cluster.airflow_connection("postgres"))
    made = run_dag("pg_s3_backup").results["backup"]
    names = shop.cluster.psql("select datname from pg_database order by 1")
    done = run_dag(
        BOTH[0],
        verify_conn_id="scratch",
        pre_restore_sql="do $$ begin\n"
        "execute format('alter database %I set a.b = ''\"it\"''', current_database()); end $$",
        checks=["select current_setting('a.b') = '\"it\"'"],
    )
    assert done.state == "success"
    assert shop.cluster.psql("select datname from pg_database order by 1") == names
    (found,) = evidence_of(shop, made).verifications
    assert f":{shop.cluster.port}/" in found.where


def test_a_run_by_hand_verifies_the_backup_that_is_named(shop, run_dag):
    made = run_dag("pg_s3_backup").results["backup"]
    run_dag("pg_s3_backup")
    done = run_dag(BOTH[1], backup=made["uri"], level="checksum")
    assert (done.state, done.tasks) == ("success", {"new_backups": "success", "verify": "success"})
    (found,) = evidence_of(shop, made).verifications
    assert (found.outcome, found.level) == ("verified", "checksum")


def test_checksums_alone_take_no_server_and_no_checks_whatever_the_environment_names(shop, run_dag, monkeypatch):
    monkeypatch.setenv("PG_S3_VERIFY_CONN_ID", "scratch")
    monkeypatch.setenv("PG_S3_VERIFY_CHECKS", '["select true"]')
    monkeypatch.setenv("PG_S3_PRE_RESTORE_SQL", "select 1")
    run_dag("pg_s3_backup")
    assert run_dag(BOTH[0], level="checksum").state == "success"


def test_a_server_that_was_cleared_in_the_form_is_none(shop, run_dag, monkeypatch):
    monkeypatch.setenv("PG_S3_VERIFY_CONN_ID", "scratch")
    made = run_dag("pg_s3_backup").results["backup"]
    cleared = {"verify_conn_id": None, "checks": None, "pre_restore_sql": None}
    assert run_dag(BOTH[0], **cleared).state == "success"
    (found,) = evidence_of(shop, made).verifications
    assert "throwaway" in found.where


def test_without_a_backup_there_is_nothing_to_verify(shop, run_dag):
    assert run_dag(BOTH[1]).tasks == {"new_backups": "skipped", "verify": "skipped"}


def test_each_backup_that_has_triggered_the_run_is_verified_once():
    class Event:
        def __init__(self, extra):
            self.extra = extra

    function = parse(BOTH[1]).get_task("new_backups").python_callable
    events = {"a": [Event({"uri": "s3://b/1.json"}), Event({"uri": "s3://b/2.json"}), Event({"uri": "s3://b/1.json"})],
              "b": [Event({}), Event(None)]}  # fmt: skip
    assert function(params={"backup": ""}, triggering_asset_events=events) == ["s3://b/1.json", "s3://b/2.json"]


@pytest.mark.parametrize(
    ("dag_id", "conf"),
    [(BOTH[0], {"level": "full"}), (BOTH[0], {"checks": "select true"}), (BOTH[1], {"backup": "/tmp/x"})],
)
def test_the_trigger_form_refuses_wrong_values(shop, run_dag, dag_id, conf):
    with pytest.raises(ParamValidationError, match=f"param {next(iter(conf))}: "):
        run_dag(dag_id, **conf)
