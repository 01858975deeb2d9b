"""What the sensor and its trigger do with what was found; integration/repository/test_freshness.py has S3."""

import asyncio
import importlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    TaskDeferred,
)  # fmt: skip
from airflow.triggers.base import BaseTrigger

import airflow_pg_s3.sensors
import airflow_pg_s3.triggers
from airflow_pg_s3.core.errors import InputError, StorageError
from airflow_pg_s3.core.repository.freshness import Freshness
from airflow_pg_s3.get_provider_info import get_provider_info
from airflow_pg_s3.sensors import freshness as sensors
from airflow_pg_s3.sensors.freshness import PgS3BackupFreshnessSensor
from airflow_pg_s3.triggers import freshness as triggers
from airflow_pg_s3.triggers.freshness import BackupFreshnessTrigger

FACTS = {"uri": "s3://b/x.json", "backup_id": "20261122T030000Z-5f3a9c"}
FRESH = Freshness(is_fresh=True, message="the newest is young", facts=FACTS)
STALE = Freshness(is_fresh=False, message="the newest is old", facts=FACTS)


@pytest.fixture
def find(monkeypatch):
    """Say what the looks find, one after the other; the last one for ever."""
    looks = []

    def find(*found):
        left = list(found)

        def look(*_, **asked):
            looks.append(asked)
            result = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(result, Exception):
                raise result
            return result

        for module in (sensors, triggers):
            monkeypatch.setattr(module, "look", look)
            monkeypatch.setattr(module, "open_repository", lambda repository, conn_id, extra_args: (None, {}))
        return looks

    return find


def sensor(**arguments):
    defaults = {
        "task_id": "fresh",
        "repository": "s3://bucket/prefix",
        "database": "shop",
        "max_age": timedelta(hours=26),
        "poke_interval": 0,
        "timeout": 0,
    }
    return PgS3BackupFreshnessSensor(**defaults | arguments)


def trigger_of(task):
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({})
    assert deferred.value.method_name == "execute_complete"
    return deferred.value.trigger


def event_of(trigger):
    async def first():
        return [event.payload async for event in trigger.run()]

    (payload,) = asyncio.run(first())
    json.dumps(payload)
    return payload


def trigger(seconds=3600.0, **arguments):
    defaults = {
        "repository": "s3://bucket/prefix",
        "database": "shop",
        "max_age_seconds": 60.0,
        "verified": True,
        "aws_conn_id": "aws",
        "poke_interval": 0.0,
        "deadline": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(),
    }
    return BackupFreshnessTrigger(**defaults | arguments)


class TestTheSensor:
    @pytest.mark.parametrize("deferrable", [False, True])
    def test_returns_the_facts_of_a_young_backup_without_waiting(self, find, deferrable):
        looks = find(FRESH)
        assert sensor(deferrable=deferrable, verified=False).execute({}) == FACTS
        assert [(asked["max_age"], asked["verified"]) for asked in looks] == [(timedelta(hours=26), False)]

    def test_pokes_until_there_is_one(self, find):
        looks = find(STALE, STALE, FRESH)
        assert sensor(timeout=3600).execute({}) == FACTS
        assert len(looks) == 3

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_that_times_out_names_the_newest(self, find, deferrable):
        find(STALE)
        with pytest.raises(AirflowSensorTimeout, match="the newest is old"):
            sensor(deferrable=deferrable).execute({})

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_skips_instead_where_it_may_fail_softly(self, find, deferrable):
        find(STALE)
        with pytest.raises(AirflowSkipException, match="the newest is old"):
            sensor(deferrable=deferrable, soft_fail=True).execute({})

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_fails_at_once_on_what_waiting_does_not_mend(self, find, deferrable):
        looks = find(InputError("the bucket does not exist"))
        with pytest.raises(AirflowFailException, match="the bucket does not exist"):
            sensor(deferrable=deferrable, timeout=3600).execute({})
        assert len(looks) == 1

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_lets_an_error_of_s3_be_retried_by_airflow(self, find, deferrable):
        find(StorageError("S3 failed"))
        with pytest.raises(StorageError, match="S3 failed"):
            sensor(deferrable=deferrable, timeout=3600).execute({})

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_skips_on_an_error_of_s3_where_it_never_fails(self, find, deferrable):
        find(StorageError("S3 failed"))
        with pytest.raises(AirflowSkipException):
            sensor(deferrable=deferrable, timeout=3600, never_fail=True).execute({})

    @pytest.mark.parametrize("max_age", [None, 3600, "26 hours", timedelta(0), timedelta(days=-1)], ids=str)
    @pytest.mark.parametrize("deferrable", [False, True])
    def test_takes_no_other_age_than_a_timedelta(self, find, max_age, deferrable):
        looks = find(FRESH)
        with pytest.raises(AirflowFailException, match="max_age must be a timedelta above zero, not"):
            sensor(max_age=max_age, deferrable=deferrable).execute({})
        assert looks == []

    def test_defers_with_plain_values_and_a_deadline_of_its_own(self, find):
        find(STALE)
        before = datetime.now(UTC)
        trigger = trigger_of(sensor(deferrable=True, timeout=3600, poke_interval=7, aws_conn_id="account"))
        path, arguments = trigger.serialize()
        deadline = datetime.fromisoformat(arguments.pop("deadline"))
        assert before <= deadline - timedelta(seconds=3600) <= datetime.now(UTC)
        assert arguments == {
            "repository": "s3://bucket/prefix",
            "database": "shop",
            "max_age_seconds": 93600.0,
            "verified": True,
            "aws_conn_id": "account",
            "s3_extra_args": {},
            "poke_interval": 7.0,
            "silent_fail": False,
        }
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name) is BackupFreshnessTrigger

    def test_defers_after_an_error_of_s3_where_these_are_silent(self, find):
        find(StorageError("S3 failed"))
        assert trigger_of(sensor(deferrable=True, timeout=3600, silent_fail=True)).silent_fail

    @pytest.mark.parametrize(
        ("status", "arguments", "error"),
        [
            ("late", {}, AirflowSensorTimeout),
            ("late", {"soft_fail": True}, AirflowSkipException),
            ("refused", {}, AirflowFailException),
            ("refused", {"never_fail": True}, AirflowSkipException),
            ("failed", {}, StorageError),
            ("failed", {"soft_fail": True}, StorageError),
            ("failed", {"never_fail": True}, AirflowSkipException),
        ],
    )
    def test_takes_up_what_the_trigger_found(self, status, arguments, error):
        event = {"status": status, "message": "the newest is old", "facts": FACTS}
        with pytest.raises(error):
            sensor(**arguments).resume_execution("execute_complete", {"event": event}, {})

    def test_returns_what_the_trigger_found(self):
        event = {"status": "fresh", "message": "young", "facts": FACTS}
        assert sensor().resume_execution("execute_complete", {"event": event}, {}) == FACTS

    def test_times_out_as_a_sensor_does_when_no_trigger_answers(self):
        with pytest.raises(AirflowSensorTimeout):
            sensor().resume_execution("__fail__", {"error": "Trigger timeout"}, {})


class TestTheTrigger:
    def test_fires_once_when_there_is_a_young_backup(self, find):
        looks = find(STALE, STALE, FRESH)
        assert event_of(trigger()) == {"status": "fresh", "message": "the newest is young", "facts": FACTS}
        assert len(looks) == 3
        assert looks[0]["max_age"] == timedelta(seconds=60)

    def test_looks_a_last_time_at_the_deadline(self, find):
        looks = find(STALE)
        assert event_of(trigger(-1, poke_interval=3600.0))["status"] == "late"
        assert len(looks) == 1

    def test_names_the_newest_when_it_is_late(self, find):
        find(STALE)
        assert event_of(trigger(-1)) == {"status": "late", "message": "the newest is old", "facts": FACTS}

    @pytest.mark.parametrize("silent", [False, True])
    def test_ends_on_what_waiting_does_not_mend(self, find, silent):
        find(STALE, InputError("no such bucket"))
        expected = {"status": "refused", "message": "no such bucket", "facts": None}
        assert event_of(trigger(silent_fail=silent)) == expected

    def test_ends_on_an_error_of_s3(self, find):
        find(StorageError("S3 failed"))
        assert event_of(trigger()) == {"status": "failed", "message": "S3 failed", "facts": None}

    def test_goes_on_after_an_error_of_s3_where_these_are_silent(self, find):
        looks = find(StorageError("S3 failed"), FRESH)
        assert event_of(trigger(silent_fail=True))["status"] == "fresh"
        assert len(looks) == 2

    def test_is_made_anew_from_what_it_says_of_itself(self, find):
        find(FRESH)
        _, arguments = trigger().serialize()
        again = BackupFreshnessTrigger(**json.loads(json.dumps(arguments)))
        assert again.serialize() == trigger(deadline=arguments["deadline"]).serialize()
        assert event_of(again)["status"] == "fresh"


@pytest.mark.parametrize(
    ("package", "base", "entry"),
    [(airflow_pg_s3.sensors, BaseSensorOperator, "sensors"), (airflow_pg_s3.triggers, BaseTrigger, "triggers")],
)
def test_exactly_the_modules_with_a_sensor_or_a_trigger_are_declared(package, base, entry):
    found = set()
    for path in Path(package.__file__).parent.glob("*.py"):
        module = importlib.import_module(f"{package.__name__}.{path.stem}")
        own = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]
        if any(isinstance(thing, type) and issubclass(thing, base) for thing in own):
            found.add(module.__name__)
    declared = [name for part in get_provider_info()[entry] for name in part["python-modules"]]
    assert sorted(declared) == sorted(found)
