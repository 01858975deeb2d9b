"""What stays of a backup that is deleted: the runs that others refer to, until they go as well."""

import logging
import threading
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_pg_s3.core.repository.manifest import run_key
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.retention import inventory
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import Pruned, PruneRequest, prune
from tests.support.simulated_s3 import Client, Store
from tests.support.stored_backups import id_at, manifest_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BASE = "p/shop/"
LOG = logging.getLogger("sweep")


class Place:
    """A repository in memory, whose backups are some days old."""

    def __init__(self) -> None:
        self.store = Store(NOON)
        self.client = Client(self.store)

    def backup(self, day: int, **runs: Any) -> str:
        """Store a backup of a day; its id.

        :param runs: what it refers to: ranges by ids; its own runs are stored, a byte each for their number.
        """
        backup_id = id_at(NOON - timedelta(days=day))
        manifest = manifest_of("shop", backup_id, **runs)
        for key in manifest.object_keys():
            if key.startswith(backup_id):
                self.store.put(BASE + key, b"12345")
        self.store.put(f"{BASE}{backup_id}/settled", b"{}")
        self.store.put(f"{BASE}{backup_id}.json", manifest.to_json())
        return backup_id

    def prune(self, **arguments: Any) -> Pruned:
        request = PruneRequest(retention=RetentionPolicy(keep_last=arguments.pop("keep_last", 1)), **arguments)
        (pruned,) = prune(request, Repository(self.client, "s3://bucket/p"), cancel=threading.Event(), log=LOG)
        return pruned

    def runs(self, backup_id: str) -> list[int]:
        """Numbers of the runs in a folder."""
        names = (key.removeprefix(f"{BASE}{backup_id}/") for key in sorted(self.store.objects))
        return [int(name[:6]) for name in names if name[:6].isdigit()]

    def has(self, backup_id: str) -> bool:
        """Whether there is anything of it."""
        return any(key.startswith(BASE + backup_id) for key in self.store.objects)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place()
    made.store.now += timedelta(days=30)

    class Clock:
        now = staticmethod(lambda _: made.store.now)

    monkeypatch.setattr(inventory, "datetime", Clock)
    return made


def test_runs_that_another_backup_refers_to_outlive_their_own_backup_and_then_go(place: Place) -> None:
    old = id_at(NOON - timedelta(days=9))
    place.backup(9, runs={old: [(1, 9)]})
    middle = place.backup(5, runs={old: [(1, 2), (5, 7)], id_at(NOON - timedelta(days=5)): [(1, 1)]})
    newest = place.backup(1, runs={old: [(2, 3)]})
    done = place.prune(keep_last=2)
    # Packs and the list of members are no other's.
    assert (place.runs(old), done.freed_bytes, done.needed_bytes) == ([1, 2, 3, 5, 6, 7], 25, 30)
    assert f"{BASE}{old}/pruned" in place.store.objects
    assert f"{BASE}{old}/members.json.zst" not in place.store.objects
    done = place.prune()
    assert (place.runs(old), place.has(middle), place.has(newest)) == ([2, 3], False, True)
    assert (done.freed_bytes, done.needed_bytes) == (4 * 5 + 3 * 5, 10)
    assert [(one.backup_id, one.outcome) for one in done.orphans] == [(old, "deleted")]
    assert [(one.outcome, one.freed_bytes) for one in place.prune().orphans] == [("needed", 0)]
    place.backup(0)
    place.prune()
    assert (place.has(old), place.has(newest)) == (False, False)


def test_a_dry_run_says_what_would_be_freed(place: Place) -> None:
    old = id_at(NOON - timedelta(days=9))
    place.backup(9, runs={old: [(1, 9)]})
    place.backup(1, runs={old: [(2, 3)]})
    before = dict(place.store.objects)
    would = place.prune(dry_run=True)
    assert place.store.objects == before
    did = place.prune()
    assert (would.freed_bytes, would.needed_bytes) == (did.freed_bytes, did.needed_bytes) == (45, 10)


def test_encrypted_runs_are_runs(place: Place) -> None:
    old = id_at(NOON - timedelta(days=9))
    encryption = {"method": "age", "recipients": ["age1x"]}
    place.backup(9, runs={old: [(1, 3)]}, encryption=encryption)
    place.backup(1, runs={old: [(2, 2)]}, encryption=encryption)
    place.prune()
    assert place.runs(old) == [2]
    assert BASE + run_key(old, 2, is_encrypted=True) in place.store.objects


@pytest.mark.parametrize("body", [b"{", b'{"format": 2}'], ids=["damaged", "of a later version"])
def test_a_backup_that_cannot_be_read_may_refer_to_any_run(
    place: Place, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    old = id_at(NOON - timedelta(days=9))
    place.backup(9, runs={old: [(1, 2)]})
    unreadable = place.backup(5)
    place.store.put(f"{BASE}{unreadable}.json", body)
    place.backup(1)
    done = place.prune()
    assert (place.runs(old), done.needed_bytes) == ([1, 2], 10)
    assert "all runs stay that it may refer to" in caplog.text
    place.store.delete(f"{BASE}{unreadable}.json")
    place.store.now += timedelta(hours=49)
    place.prune()
    assert not place.has(old)


def test_a_backup_on_hold_keeps_what_it_refers_to(place: Place) -> None:
    old = id_at(NOON - timedelta(days=9))
    place.backup(9, runs={old: [(1, 2)]})
    place.backup(5, runs={old: [(2, 2)]}, labels={"hold": "audit"})
    place.backup(1)
    place.prune()
    assert place.runs(old) == [2]


def test_a_backup_in_progress_postpones_all_but_manifests(place: Place) -> None:
    old = place.backup(9)
    place.backup(1)
    running = id_at(NOON)
    place.store.put(f"{BASE}{running}/begun", b"{}")
    done = place.prune()
    assert f"{BASE}{old}.json" not in place.store.objects
    assert f"{BASE}{old}/members.json.zst" in place.store.objects
    assert done.postponed is not None
    assert running in done.postponed
    assert (done.freed_bytes, [one.outcome for one in done.leftovers]) == (0, ["postponed", "young"])
    assert f"{BASE}sweeping" not in place.store.objects
    place.store.now += timedelta(hours=49)
    assert place.prune().postponed is None
    assert not place.has(old)
    assert not place.has(running)


def test_another_sweep_postpones_until_its_mark_is_old(place: Place) -> None:
    old = place.backup(9)
    place.backup(1)
    place.store.put(f"{BASE}sweeping", b'{"owner": "another"}')
    place.store.now += timedelta(minutes=29)
    done = place.prune()
    assert done.postponed == f"another prune is at work, by its mark s3://bucket/{BASE}sweeping"
    assert place.has(old)
    assert f"{BASE}sweeping" in place.store.objects
    place.store.now += timedelta(minutes=2)
    assert place.prune().postponed is None
    assert not place.has(old)
    assert f"{BASE}sweeping" not in place.store.objects


def test_the_mark_of_one_that_was_killed_is_removed_though_there_is_nothing_to_delete(place: Place) -> None:
    place.backup(1)
    place.store.put(f"{BASE}sweeping", b"?")
    place.store.now += timedelta(minutes=31)
    place.prune()
    assert f"{BASE}sweeping" not in place.store.objects


def test_nothing_is_marked_where_there_is_nothing_to_delete(place: Place) -> None:
    old = id_at(NOON - timedelta(days=9))
    place.backup(9, runs={old: [(1, 1)]})
    place.backup(1, runs={old: [(1, 1)]})
    place.prune()
    operations = []
    place.client._gate = lambda request: (operations.append(request.operation), request.answer())[1]
    place.prune()
    assert set(operations) == {"ListObjectsV2", "GetObject", "HeadObject"}


BACKUPS = 100
FOLDERS = 30
RANGES = 430
"""Of each folder that a backup refers to, each of two runs: 100,000 chunks in 26,000 runs."""


def test_planning_holds_no_more_of_large_manifests_than_they_have_in_common(place: Place) -> None:
    """A thousand of these take 16 s of CPU, and as much memory as these."""
    ids = [id_at(NOON - timedelta(days=day)) for day in range(BACKUPS, 0, -1)]
    ranges = [(first, first + 1) for first in range(1, 4 * RANGES, 4)]
    for number, backup_id in enumerate(ids):
        runs = {folder: ranges for folder in ids[max(0, number - FOLDERS + 1) : number + 1]}
        body = manifest_of("shop", backup_id, runs=runs).to_json()
        place.store.put(f"{BASE}{backup_id}.json", body)
        place.store.put(f"{BASE}{backup_id}/{1:06}.zst", b"needed, or dead")
        place.store.put(f"{BASE}{backup_id}/{3:06}.zst", b"dead")
    tracemalloc.start()
    try:
        done = place.prune(keep_last=90, dry_run=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [leftover.needed_bytes for leftover in done.leftovers] == [len(b"needed, or dead")] * 10
    assert peak < 64 << 20
