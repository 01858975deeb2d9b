"""A backup says that it is being made, and waits for prunes that delete what it might refer to."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from airflow_pg_s3.core.errors import Cancelled, StorageError
from airflow_pg_s3.core.repository import presence
from airflow_pg_s3.core.repository.presence import Presence
from airflow_pg_s3.core.repository.repository import Begun, Repository
from airflow_pg_s3.core.s3.errors import OutcomeUnknown
from tests.support.simulated_s3 import Client, Request, Store
from tests.support.stored_backups import ID

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = f"p/shop/{ID}/begun"
MARK = "p/shop/sweeping"


class Cancel(threading.Event):
    """Does something each time that it is waited for, instead of waiting."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__()
        self._do = do

    def wait(self, timeout: float | None = None) -> bool:
        self._do()
        return self.is_set()


@pytest.fixture
def store() -> Store:
    return Store(NOON)


def presence_on(store: Store, client: Client, cancel: threading.Event | None = None) -> Presence:
    begun = Begun(backup_id=ID, database="shop", instance="i")
    repository = Repository(client, "s3://bucket/p")
    return Presence(repository, begun, {}, cancel=cancel or threading.Event(), log=logging.getLogger("presence"))


def refusing(store: Store, status: int, code: str) -> Client:
    """A client of a store on which nothing can be written over."""

    def gate(request: Request) -> object:
        if request.operation == "PutObject" and request.key in store.objects:
            answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(answer, "PutObject")
        return request.answer()

    return Client(store, gate)


def test_it_is_stored_anew_until_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_RENEW_SECONDS", 0.01)
    made = presence_on(store, Client(store))
    made.begin()
    store.now += timedelta(hours=5)
    deadline = time.monotonic() + 60
    while store.objects[KEY].modified == NOON:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    made.end()
    store.delete(KEY)
    time.sleep(0.05)
    assert KEY not in store.objects


def test_it_is_young_for_an_hour(store: Store) -> None:
    made = presence_on(store, Client(store))
    made.renew()
    assert made.is_young()
    store.now += timedelta(minutes=61)
    assert not made.is_young()
    store.delete(KEY)
    with pytest.raises(StorageError, match=f"taken for abandoned, by s3://bucket/{KEY}"):
        made.is_young()


def test_a_store_that_lets_nothing_be_written_over_is_no_error(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    made = presence_on(store, refusing(store, 403, "ObjectLockedByBucketPolicy"))
    made.renew()
    store.now += timedelta(hours=5)
    made.renew()
    assert made.is_young()
    assert "orphan_age of prunes must be longer than backups take" in caplog.text


def test_a_store_that_fails_is_an_error(store: Store) -> None:
    made = presence_on(store, refusing(store, 503, "SlowDown"))
    made.renew()
    with pytest.raises(OutcomeUnknown):
        made.renew()


def test_it_waits_until_the_mark_is_gone_or_its_life_is_over(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def pass_time() -> None:
        store.now += timedelta(minutes=7)

    store.put(MARK, b'{"owner": "a prune"}')
    with caplog.at_level("INFO"):
        presence_on(store, Client(store), Cancel(pass_time)).wait_for_sweep()
    assert store.now == NOON + timedelta(minutes=35)
    assert (
        caplog.text.count(f"waiting for a prune that deletes what no backup refers to, until s3://bucket/{MARK}")
        == 1
    )
    store.put(MARK, b"damaged")
    presence_on(store, Client(store), Cancel(lambda: store.delete(MARK))).wait_for_sweep()


def test_it_waits_no_longer_when_the_task_is_stopped(store: Store) -> None:
    store.put(MARK, b"{}")
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        presence_on(store, Client(store), cancel).wait_for_sweep()
