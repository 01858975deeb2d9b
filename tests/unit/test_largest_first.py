"""pg_restore sees sizes when it takes them, and named pipes when it opens them."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

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
