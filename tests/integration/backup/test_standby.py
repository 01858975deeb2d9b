"""Backups of standbys: before November 2026, no two sessions can share a snapshot of theirs without danger."""

import contextlib
import os
from collections.abc import Callable, Iterator

import psycopg
import pytest

from airflow_pg_s3.core.backup.standby import has_right_snapshots
from testkit.postgres import Cluster, Installation, newest, with_vector
from tests.conftest import postgresql_is_missing
from tests.integration.conftest import only_on

pytestmark = only_on("moto")

OLD = with_vector(16)
WARNED = (
    f"the server is a standby of PostgreSQL {OLD.version}, where a dump by several jobs can be wrong, and damage "
    "the standby's own data: upgrade it to 16.16, or use jobs=1 without --snapshot"
)


@contextlib.contextmanager
def standby(installation: Installation) -> Iterator[Cluster]:
    """A server in recovery that waits for WAL which never comes; it holds a table with ten rows."""
    with Cluster(installation=installation, settings={"wal_level": "replica"}) as cluster:
        cluster.psql("create table t as select generate_series(1, 10) i")
        signal = cluster.data_dir / "standby.signal"
        signal.touch()
        owner = cluster.data_dir.stat()
        os.chown(signal, owner.st_uid, owner.st_gid)
        cluster.restart()
        yield cluster


@pytest.fixture(scope="module")
def old_standby() -> Iterator[Cluster]:
    with standby(OLD) as cluster:
        yield cluster


@pytest.fixture
def has_warned(capfd: pytest.CaptureFixture[str]) -> Callable[[], bool]:
    """() → whether a task has warned; if so, in these words."""

    def look() -> bool:
        said = capfd.readouterr().out
        assert (WARNED in said) == ("is a standby of" in said)
        return WARNED in said

    return look


def test_a_parallel_backup_warns(old_standby: Cluster, back_up, has_warned) -> None:
    assert back_up(old_standby, "postgres")["rows"] == 10
    assert has_warned()


def test_one_job_shares_no_snapshot(old_standby: Cluster, back_up, has_warned, monkeypatch) -> None:
    monkeypatch.delattr("airflow_pg_s3.core.postgres.server.shared_snapshot")
    assert back_up(old_standby, "postgres", jobs=1)["rows"] == 10
    assert not has_warned()


def test_one_job_that_takes_another_sessions_snapshot_does(old_standby: Cluster, back_up, has_warned) -> None:
    with psycopg.connect(old_standby.dsn()) as session:
        session.execute("begin isolation level repeatable read")
        (snapshot,) = session.execute("select pg_export_snapshot()").fetchone()
        back_up(old_standby, "postgres", jobs=1, pg_dump_options=["--snapshot", snapshot])
    assert has_warned()


def test_a_standby_that_is_mended_is_dumped_in_parallel_without_a_word(back_up, has_warned) -> None:
    installation = newest(15)
    if not has_right_snapshots(int(installation.version.replace(".", "00"))):
        postgresql_is_missing("PostgreSQL 15.20 or later is not installed")
    with standby(installation) as cluster:
        assert back_up(cluster, "postgres")["rows"] == 10
    assert not has_warned()


def test_a_primary_is_dumped_in_parallel_without_a_word(cluster_of, new_database, back_up, has_warned) -> None:
    cluster = cluster_of(OLD)
    back_up(cluster, new_database(cluster, "create table t (i int)"))
    assert not has_warned()
