"""The freshness sensor looks at real backups on S3, and says what it has found."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)  # fmt: skip

from airflow_pg_s3.core.repository import freshness
from airflow_pg_s3.sensors.freshness import PgS3BackupFreshnessSensor
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import only_on
from tests.support.stored_backups import CHECKED, FAILED, RESTORED, UNSURE, Shelf

pytestmark = only_on("moto")
HOUR = timedelta(hours=1)


@pytest.fixture
def shelf(s3: S3Server, repository: str) -> Shelf:
    return Shelf(s3.client(), repository)


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(params=["poke", "deferrable"])
def sense(request, connections, repository):
    """(**arguments of the sensor) → what its task returns, looking once; deferrable: in the trigger."""

    def sense(**arguments):
        defaults = {
            "task_id": "fresh",
            "repository": repository,
            "database": "app",
            "max_age": 26 * HOUR,
            "aws_conn_id": "aws",
            "poke_interval": 0,
            "timeout": 0,
        }
        task = PgS3BackupFreshnessSensor(**defaults | arguments)
        if request.param == "poke":
            return task.execute({})
        task.deferrable = True
        task.timeout = task.timeout or 1e-6  # not 0, so that the first look does not have the last word
        try:
            return task.execute({})
        except TaskDeferred as deferred:  # now in the triggerer's place
            event = asyncio.run(anext(deferred.trigger.run()))
            return task.resume_execution(deferred.method_name, {"event": event.payload}, {})

    return sense


def test_a_young_backup_is_enough_where_verification_is_not_asked_for(
    pg18: Cluster, new_database, back_up, sense, repository: str
):
    database = new_database(pg18, "CREATE TABLE t AS SELECT 1 AS a")
    made = back_up(pg18, database)
    facts = sense(database=database, verified_only=False)
    assert {name: facts[name] for name in ("uri", "key", "backup_id", "database", "created_at")} == {
        name: made[name] for name in ("uri", "key", "backup_id", "database", "created_at")
    }
    assert facts["verified"] is False
    age = (datetime.now(UTC) - datetime.fromisoformat(made["created_at"])).total_seconds()
    # It has milliseconds.
    assert 0 < facts["age_seconds"] <= age + 0.001
    with pytest.raises(
        AirflowSensorTimeout, match=f"there is no verified backup of '{database}' in {repository}/"
    ):
        sense(database=database)


def test_the_newest_verified_one_counts_although_a_newer_one_is_not_verified(shelf: Shelf, sense, now):
    verified = shelf.put_backup("app", now - 20 * HOUR)
    shelf.put_evidence("app", verified, RESTORED, at=now - 19 * HOUR)
    shelf.put_backup("app", now - HOUR)
    facts = sense()
    assert (facts["backup_id"], facts["verified"]) == (verified, True)
    assert facts["uri"] == shelf.uri("app", verified)


def test_backups_that_are_made_but_not_verified_are_both_named(shelf: Shelf, sense, now):
    verified = shelf.put_backup("app", now - timedelta(days=3))
    shelf.put_evidence("app", verified, RESTORED, at=now - timedelta(days=2))
    failed = shelf.put_backup("app", now - 2 * HOUR)
    shelf.put_evidence("app", failed, FAILED, RESTORED, at=now - HOUR)
    with pytest.raises(AirflowSensorTimeout) as late:
        sense()
    assert str(late.value).partition(": Sensor has timed out")[0] == (
        f"the newest verified backup of 'app' is {verified} (3 d old, verified 2 d ago, "
        f"{shelf.uri('app', verified)}), not within 26 h; backups are made, but not verified: the newest is "
        f"{failed} (2 h old, failed 60 min ago, {shelf.uri('app', failed)})"
    )


@pytest.mark.parametrize("verifications", [(CHECKED,), (UNSURE,), (FAILED,)], ids=str)
def test_what_is_not_a_restore_that_was_right_does_not_count(shelf: Shelf, sense, now, verifications):
    made = shelf.put_backup("app", now - HOUR)
    shelf.put_evidence("app", made, *verifications, at=now)
    with pytest.raises(AirflowSensorTimeout, match=r"there is no verified backup of 'app'.*the newest is"):
        sense()
    assert sense(verified_only=False)["verified"] is False


def test_a_backup_is_too_old_from_its_own_time_on(shelf: Shelf, sense, now):
    old = shelf.put_backup("app", now - 27 * HOUR)
    with pytest.raises(AirflowSensorTimeout, match=rf"{old} \(27 h old, not verified, s3://.*, not within 26 h"):
        sense(verified_only=False)
    assert sense(verified_only=False, max_age=28 * HOUR)["backup_id"] == old


def test_a_clock_that_is_ahead_does_not_make_a_backup_young_for_ever(shelf: Shelf, sense, now):
    shelf.put_backup("app", now - HOUR)
    slightly = shelf.put_backup("app", now + HOUR)
    assert sense(verified_only=False)["backup_id"] == slightly
    far = shelf.put_backup("app", now + timedelta(days=900))
    with pytest.raises(AirflowSensorTimeout, match=rf"{far} \(8\d\d d in the future by our clock"):
        sense(verified_only=False)


def test_none_at_all_says_where_it_looked(shelf: Shelf, sense, repository: str):
    shelf.put("app/20261122T030000Z-5f3a9c/5.dat.zst")
    expected = (
        f"there is no backup of 'app' in {repository}/app/: has one been made, and are prefix and name right?"
    )
    with pytest.raises(AirflowSensorTimeout) as late:
        sense(verified_only=False)
    assert str(late.value).startswith(expected)


def test_a_damaged_manifest_does_not_hide_the_backup_before_it(shelf: Shelf, sense, now):
    good = shelf.put_backup("app", now - 2 * HOUR)
    shelf.put(f"app/{(now - HOUR).strftime('%Y%m%dT%H%M%SZ')}-000000.json", b"{}")
    assert sense(verified_only=False)["backup_id"] == good


def test_the_search_for_a_verified_one_has_an_end(shelf: Shelf, sense, now, monkeypatch):
    oldest = shelf.put_backup("app", now - 5 * HOUR)
    shelf.put_evidence("app", oldest, RESTORED, at=now)
    for hours in range(1, 5):
        shelf.put_backup("app", now - hours * HOUR)
    assert sense()["backup_id"] == oldest
    monkeypatch.setattr(freshness, "BACKUPS_LOOKED_AT", 4)
    with pytest.raises(AirflowSensorTimeout, match="there is no verified backup of 'app' among the newest 4 in"):
        sense()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repository": "s3://no-such-bucket-here/x"}, "the bucket 'no-such-bucket-here' does not exist"),
        ({"repository": "/local/path"}, "repository must look like s3://bucket/prefix"),
        ({"aws_conn_id": "missing"}, "connection 'missing' does not exist"),
        ({"database": ""}, "database must be the name of a database"),
    ],
    ids=str,
)
def test_what_cannot_work_fails_at_once_and_is_not_waited_for(s3, sense, arguments: dict, message: str):
    with pytest.raises(AirflowFailException, match=message):
        sense(timeout=3600, **arguments)


def test_a_soft_failure_is_a_skip(s3, sense):
    with pytest.raises(AirflowSkipException) as skipped:
        sense(soft_fail=True)
    assert isinstance(skipped.value.__cause__, AirflowException)


def test_every_look_is_logged(shelf: Shelf, connections, repository: str, now, caplog, monkeypatch):
    made = shelf.put_backup("app", now - HOUR)
    monkeypatch.setattr(PgS3BackupFreshnessSensor, "log", logging.getLogger("sensor"))
    task = PgS3BackupFreshnessSensor(
        task_id="t",
        repository=repository,
        database="app",
        max_age=26 * HOUR,
        verified_only=False,
        aws_conn_id="aws",
    )
    with caplog.at_level("INFO"):
        assert task.poke({}).is_done
    (line,) = [message for message in caplog.messages if "newest" in message]
    assert line.startswith(f"the newest backup of 'app' is {made} (60 min old, not verified, s3://")
