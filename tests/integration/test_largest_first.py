"""A parallel restore begins with the largest tables where pg_restore can be brought to it, and works where not."""

import errno
import os

import pytest

from airflow_pg_s3.core import largest_first, load
from airflow_pg_s3.core.feeder import Feeder
from tests.integration.conftest import only_on

# The later a table is made, the larger it is; none of them travels in a pack.
MAKE = "create table t{n} as select md5(i::text) as a, md5((i * 7)::text) as b from generate_series(1, {rows}) i;"
ROWS = {1: 20_000, 2: 30_000, 3: 40_000, 4: 200_000, 5: 250_000}
FILL = "".join(MAKE.format(n=n, rows=rows) for n, rows in ROWS.items())

pytestmark = only_on("ceph")


@pytest.fixture
def fed(monkeypatch):
    """The tables that pg_restore has asked for, in this order."""
    tables = []
    feed = Feeder._feed

    def see(feeder, member, target):
        tables.append(member.table.name)
        return feed(feeder, member, target)

    monkeypatch.setattr(Feeder, "_feed", see)
    return tables


def test_the_largest_are_restored_first(postgres, new_database, back_up, assert_restored, fed):
    source = new_database(postgres, FILL)
    assert_restored(postgres, source, postgres, back_up(postgres, source), jobs=2)
    assert set(fed[:2]) == {"t5", "t4"}


def test_without_leases_all_are_restored(pg18, new_database, back_up, assert_restored, fed, monkeypatch):
    source = new_database(pg18, FILL)
    made = back_up(pg18, source)

    def refuse(path, kind):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(largest_first.lease, "take", refuse)
    assert_restored(pg18, source, pg18, made, jobs=2)
    assert sorted(fed) == ["t1", "t2", "t3", "t4", "t5"]


def test_with_a_service_of_the_users_all_are_restored(
    pg18, new_database, back_up, assert_restored, fed, monkeypatch
):
    source = new_database(pg18, FILL)
    monkeypatch.setattr(load, "ensure_service_file", lambda *_: None)
    assert_restored(pg18, source, pg18, back_up(pg18, source), jobs=2)
    assert sorted(fed) == ["t1", "t2", "t3", "t4", "t5"]
