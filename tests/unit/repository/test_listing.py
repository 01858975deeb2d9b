"""The newest backups are found without listing all of them, and none is missed."""

import bisect
import random
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.repository import listing
from airflow_pg_s3.core.repository.backup_id import beginning_at, time_of, time_of_beginning
from airflow_pg_s3.core.repository.listing import Listing
from airflow_pg_s3.core.repository.repository import Repository
from tests.support.stored_backups import id_at

NOW = datetime.now(UTC).replace(microsecond=0)
BASE = "backups/shop/"


class Keys:
    """S3's listing of keys in memory, that counts requests. tests/integration/repository/test_listing.py has real
    servers."""

    def __init__(self, keys, page=1000):
        self._keys = sorted(keys)
        self._page = page
        self.requests = 0

    def list_objects_v2(self, *, Bucket, Prefix, Delimiter, StartAfter, MaxKeys):
        self.requests += 1
        contents, folders = [], []
        place = bisect.bisect_right(self._keys, max(StartAfter, Prefix))
        room = min(MaxKeys, self._page)
        while place < len(self._keys) and self._keys[place].startswith(Prefix) and room:
            folder, slash, _ = self._keys[place][len(Prefix) :].partition("/")
            if slash:
                folders.append({"Prefix": f"{Prefix}{folder}/"})
                place = bisect.bisect_left(self._keys, f"{Prefix}{folder}0")  # 0 follows /
            else:
                contents.append({"Key": self._keys[place], "Size": 2})
                place += 1
            room -= 1
        more = place < len(self._keys) and self._keys[place].startswith(Prefix)
        return {"Contents": contents, "CommonPrefixes": folders, "IsTruncated": more}

    def get_paginator(self, operation):
        assert operation == "list_objects_v2"
        return self

    def paginate(self, *, Bucket, Prefix, Delimiter, StartAfter, PaginationConfig):
        while True:
            page = self.list_objects_v2(
                Bucket=Bucket, Prefix=Prefix, Delimiter=Delimiter, StartAfter=StartAfter,
                MaxKeys=PaginationConfig["PageSize"],
            )  # fmt: skip
            yield page
            if not page["IsTruncated"]:
                return
            last = max([e["Key"] for e in page["Contents"]] + [f["Prefix"] for f in page["CommonPrefixes"]])
            StartAfter = last[:-1] + "0" if last.endswith("/") else last


def keys_of(ids, with_evidence=lambda number: True):
    """A backup is a manifest, mostly evidence, and a folder."""
    for number, backup_id in enumerate(ids):
        yield f"{BASE}{backup_id}.json"
        yield f"{BASE}{backup_id}/pack-0001.tar.zst"
        if with_evidence(number):
            yield f"{BASE}{backup_id}.verified.json"


def listing_of(keys, page=1000):
    client = Keys(keys, page)
    return client, Listing(client, bucket="b", base=BASE, database="shop")


def newest(shelf, count=1, before=None):
    return [ref.backup_id for ref in islice(shelf.newest_first(before), count)]


EVERY_FIVE_MINUTES = [id_at(NOW - timedelta(minutes=5 * n), n) for n in range(100_000)]


LONG_AGO = NOW - timedelta(days=999)


@pytest.mark.parametrize(
    ("ids", "most"),
    [
        pytest.param(EVERY_FIVE_MINUTES, 4, id="every 5 minutes until now"),
        pytest.param([id_at(NOW - timedelta(hours=n)) for n in range(100_000)], 4, id="hourly until now"),
        pytest.param(
            [id_at(NOW - timedelta(days=180, minutes=n)) for n in range(100_000)], 16, id="until half a year ago"
        ),
        pytest.param(
            [id_at(NOW + timedelta(days=3652, minutes=-5 * n)) for n in range(100_000)], 30, id="by a clock ahead"
        ),
        pytest.param(
            [id_at(NOW), *(id_at(LONG_AGO - timedelta(seconds=n)) for n in range(99_999))], 4, id="one since long"
        ),
        pytest.param(EVERY_FIVE_MINUTES[:300], 1, id="no more than a page"),
    ],
)
def test_the_newest_of_100_000_takes_a_few_requests(ids, most, request, capsys):
    client, shelf = listing_of(keys_of(ids))
    assert newest(shelf) == ids[:1]
    asked = client.requests
    newest(shelf, 100)
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: {len(ids)} backups, newest: {asked} requests, "
              f"100 newest: {client.requests - asked}")  # fmt: skip
    assert asked <= most


def test_what_came_before_a_time_takes_a_few_requests():
    client, shelf = listing_of(keys_of(EVERY_FIVE_MINUTES))
    assert newest(shelf, 3, NOW - timedelta(days=200)) == EVERY_FIVE_MINUTES[57_600:57_603]
    assert client.requests <= 4


def test_all_of_them_take_about_as_many_requests_as_s3_has_pages():
    client, shelf = listing_of(keys_of(EVERY_FIVE_MINUTES))
    assert [ref.backup_id for ref in shelf.complete()] == EVERY_FIVE_MINUTES
    assert client.requests == 300
    assert newest(shelf, None) == EVERY_FIVE_MINUTES
    assert client.requests - 300 < 3 * 300


times = st.one_of(
    st.integers(-5, 5).map(lambda n: NOW + timedelta(seconds=n)),
    st.integers(-400, 400).map(lambda n: NOW + timedelta(hours=n)),
    st.integers(-30_000, 30_000).map(lambda n: NOW + timedelta(days=n)),
    st.sampled_from([datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 58, tzinfo=UTC)]),
)
names = st.one_of(
    st.sampled_from(
        ["notes.json", "0", "2026-notes", "20261301T000000Z-000000.json", "99999999", "é.json", "x/y"]
    ),
    st.text("012/.-x", min_size=1, max_size=5).map(lambda text: text.lstrip("/") or "x"),
    times.map(lambda when: f"{beginning_at(when)}-00000g.json"),
)


@given(
    ids=st.lists(st.tuples(times, st.integers(0, 30)).map(lambda pair: id_at(*pair)), unique=True, max_size=60),
    begun=st.lists(times.map(lambda when: f"{BASE}{id_at(when, 99)}/begun"), max_size=10),
    junk=st.lists(names.map(lambda name: BASE + name), max_size=30),
    page=st.integers(1, 12),
    before=st.none() | times,
)
def test_newest_first_shows_what_the_complete_list_shows(ids, begun, junk, page, before):
    _, shelf = listing_of({*keys_of(ids, lambda number: number % 3), *begun, *junk}, page)
    complete = shelf.complete()
    assert [ref.backup_id for ref in complete] == sorted(ids, reverse=True)
    assert {ref.backup_id for ref in complete if ref.has_evidence} == {i for n, i in enumerate(ids) if n % 3}
    assert list(shelf.newest_first(before)) == [
        ref for ref in complete if before is None or ref.created_at <= before
    ]


@pytest.mark.parametrize("seed", [190, 220, 324, 379, 672, 918])
def test_none_is_missed_where_a_page_ends_within_the_second_at_which_a_span_begins(seed, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, zone):
            return NOW

    # Rare: these are all seeds up to 1,000 that make it happen, at this moment.
    monkeypatch.setattr(listing, "datetime", Clock)
    chance = random.Random(seed)
    seconds = {chance.randrange(2000) for _ in range(40)}
    ids = [
        id_at(NOW - timedelta(seconds=second), 100 * n + m)
        for n, second in enumerate(seconds)
        for m in range(chance.randint(1, 8))
    ]
    _, shelf = listing_of(keys_of(ids, lambda number: number % 3), page=7)
    assert list(shelf.newest_first()) == shelf.complete()


@pytest.mark.parametrize("count", [5, 61])
def test_many_backups_of_one_second_are_all_found(count):
    ids = [id_at(NOW - timedelta(days=1), n) for n in range(count)]
    _, shelf = listing_of(keys_of([*ids, id_at(NOW)]), page=7)
    assert newest(shelf, None) == [id_at(NOW), *ids[::-1]]


def test_a_real_s3_client_is_asked_the_same_way(s3_client, bucket, monkeypatch):
    """moto cuts pages as S3 does; two folders and two objects a page."""
    monkeypatch.setattr(listing, "_KEYS_A_PAGE", 4)
    ids = [id_at(NOW + timedelta(hours=7 * n)) for n in range(-30, 5)]
    for key in keys_of(ids, lambda number: number % 2):
        s3_client.put_object(Bucket=bucket, Key=key, Body=b"{}")
    repository = Repository(s3_client, f"s3://{bucket}/backups")
    assert [ref.backup_id for ref in repository.newest_first("shop")] == ids[::-1]
    assert list(repository.newest_first("shop")) == repository.backups("shop")
    assert newest(repository._listing("shop"), 2, NOW) == ids[30:28:-1]


@pytest.mark.parametrize(
    "name", ["", "20261301T000000Z-000000.json", "20261122T030000Z", "x20261122T030000Z-5f3a9c"]
)
def test_names_that_begin_with_no_id_have_no_time(name):
    assert time_of_beginning(name) is None
    assert time_of(name) is None


def test_a_time_is_that_of_the_id_and_of_nothing_longer():
    when = datetime(2026, 11, 22, 3, tzinfo=UTC)
    assert time_of("20261122T030000Z-5f3a9c") == when
    assert time_of("20261122T030000Z-5f3a9c.json") is None
    assert time_of_beginning("20261122T030000Z-5f3a9c.json") == when
