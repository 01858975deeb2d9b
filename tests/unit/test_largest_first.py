"""pg_restore sees sizes when it takes them, and named pipes when it opens them."""

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from airflow_pg_s3.core import largest_first, lease
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.largest_first import LargestFirst
from tests.waiting import wait_until

MEMBERS = [SimpleNamespace(name=f"{n}.dat", raw_bytes=n << 30, table=object()) for n in (1, 2)]
LARGE_OBJECT = SimpleNamespace(name="blob_1.dat", raw_bytes=5, table=None)


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for member in (*MEMBERS, LARGE_OBJECT):
        os.mkfifo(folder / member.name)
    return folder


@pytest.fixture
def order(archive, tmp_path):
    service_file = tmp_path / "pg_service.conf"
    service_file.write_text("[service]\n")
    with LargestFirst(archive, [*MEMBERS, LARGE_OBJECT], service_file) as order:
        yield order


def is_pipe(path):
    return stat.S_ISFIFO(path.stat().st_mode)


def test_sizes_until_the_first_worker_connects_and_then_named_pipes(order, archive, tmp_path):
    def connect():
        return (tmp_path / "pg_service.conf").read_text()

    assert not order.look()
    with ThreadPoolExecutor() as pool:
        leader = pool.submit(connect)
        wait_until(lambda: order.look() or leader.done())
        assert leader.result() == "[service]\n"
        assert not order.look()
        assert [(archive / f"{n}.dat").stat().st_size for n in (1, 2)] == [1 << 30, 2 << 30]
        assert is_pipe(archive / "blob_1.dat")
        workers = [pool.submit(connect) for _ in range(3)]
        wait_until(order.look)
        assert [worker.result() for worker in workers] == ["[service]\n"] * 3
    assert all(is_pipe(archive / member.name) for member in MEMBERS)


def test_a_worker_waits_until_the_pipes_are_there(order, archive, tmp_path):
    with ThreadPoolExecutor() as pool:
        leader = pool.submit((tmp_path / "pg_service.conf").read_text)
        wait_until(lambda: order.look() or leader.done())
        worker = pool.submit(lambda: (tmp_path / "pg_service.conf").read_text() and is_pipe(archive / "1.dat"))
        wait_until(order.look)
        assert worker.result()


def test_whoever_waits_is_let_go_at_the_end(archive, tmp_path):
    service_file = tmp_path / "pg_service.conf"
    service_file.write_text("[service]\n")
    with ThreadPoolExecutor() as pool:
        with LargestFirst(archive, MEMBERS, service_file):
            waiting = pool.submit(service_file.read_text)
        assert waiting.result() == "[service]\n"


def test_it_leaves_all_as_it_was_where_leases_have_no_effect(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "take", lambda path, kind: os.open(path, os.O_RDONLY))
    (tmp_path / "pg_service.conf").touch()
    with LargestFirst(archive, MEMBERS, tmp_path / "pg_service.conf") as order:
        assert order.look()
        assert all(is_pipe(archive / member.name) for member in MEMBERS)


def test_it_leaves_all_as_it_was_where_files_cannot_be_so_long(archive, tmp_path):
    members = [*MEMBERS, SimpleNamespace(name="3.dat", raw_bytes=1 << 62, table=object())]
    os.mkfifo(archive / "3.dat")
    (tmp_path / "pg_service.conf").touch()
    with LargestFirst(archive, members, tmp_path / "pg_service.conf") as order:
        assert order.look()
        assert all(is_pipe(archive / member.name) for member in members)
        assert (tmp_path / "pg_service.conf").read_text() == ""


def test_a_task_that_stood_still_says_so(order, tmp_path, monkeypatch):
    monkeypatch.setattr(largest_first, "_break_seconds", lambda: 0.1)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit((tmp_path / "pg_service.conf").read_text)
        time.sleep(0.2)
        with pytest.raises(PgS3Error, match="stood still"):
            order.look()
        order.__exit__(None, None, None)
        waiting.result()
