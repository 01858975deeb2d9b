"""A stream into a program's standard input: all of it, and no end that is none."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_pg_s3.core.errors import Cancelled, IntegrityError
from airflow_pg_s3.core.postgres.client_program import ClientProgram
from airflow_pg_s3.core.postgres.stdin_feeder import run_with_stdin
from tests.support.waiting import wait_until

CHUNKS = [random.Random(0).randbytes(1 << 20) for _ in range(3)]
TASK = """
import sys, threading, time, logging
from airflow_pg_s3.core.postgres.stdin_feeder import run_with_stdin
def chunks():
    yield b"some bytes"
    time.sleep(600)
from tests.unit.postgres.test_stdin_feeder import Judge
run_with_stdin(
    sys.argv[1:], env={}, chunks=chunks(), judge=Judge(), cancel=threading.Event(), log=logging.getLogger()
)
"""


class Log:
    def info(self, *_: object) -> None:
        """Say nothing."""


class Judge:
    is_hopeless = False

    def see(self, _: str) -> None:
        """Nothing tells anything."""

    def check(self, program: ClientProgram) -> None:
        program.check()


@pytest.fixture
def pour(fake_program, tmp_path: Path):
    """(commands of a shell, chunks) → the bytes poured; what the program has read is in `read`."""

    def run(commands: str, chunks: Iterator[bytes], cancel: threading.Event | None = None) -> int:
        program = fake_program(f"cd '{tmp_path}'; {commands}", programs=["psql"]).path("psql")
        return run_with_stdin(
            [program],
            env={"PATH": os.environ["PATH"]},
            chunks=chunks,
            judge=Judge(),
            cancel=cancel or threading.Event(),
            log=Log(),
        )

    return run


def test_all_comes_through_also_to_a_slow_reader(pour, tmp_path):
    assert pour("sleep 0.7; cat >read", iter(CHUNKS)) == 3 << 20
    assert (tmp_path / "read").read_bytes() == b"".join(CHUNKS)


def test_of_a_reader_that_has_enough_the_stream_is_read_to_its_end_nevertheless(pour, tmp_path):
    passed = []

    def chunks() -> Iterator[bytes]:
        for chunk in CHUNKS:
            passed.append(chunk)
            yield chunk

    assert pour("head -c 10 >read", chunks()) == 3 << 20
    assert (tmp_path / "read").read_bytes() == CHUNKS[0][:10]
    assert passed == CHUNKS


def test_a_stream_that_breaks_off_has_no_end_for_the_reader(pour, tmp_path):
    def chunks() -> Iterator[bytes]:
        yield CHUNKS[0]
        wait_until(lambda: (tmp_path / "read").exists() and (tmp_path / "read").stat().st_size == 1 << 20)
        raise IntegrityError("is damaged")

    with pytest.raises(IntegrityError, match="is damaged"):
        pour("cat >read; touch end", chunks())
    assert not (tmp_path / "end").exists()


def test_a_reader_that_stands_still_is_given_up_when_told_to(pour):
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Cancelled):
        pour("sleep 600", iter(CHUNKS), cancel)


def test_when_we_are_killed_the_reader_sees_no_end(fake_program, tmp_path):
    commands = f"cd '{tmp_path}'; echo $$ >pid; (cat; touch end) >read"
    program = fake_program(commands, programs=["psql"]).path("psql")
    task = subprocess.Popen([sys.executable, "-c", TASK, program])
    read, pid = tmp_path / "read", tmp_path / "pid"
    try:
        wait_until(lambda: read.exists() and read.read_bytes() == b"some bytes")
        task.kill()
        task.wait()
        time.sleep(0.5)  # it would be quick about it
        assert not (tmp_path / "end").exists()
    finally:
        subprocess.run(["pkill", "-KILL", "-P", pid.read_text().strip()], check=False)
        os.kill(int(pid.read_text()), signal.SIGKILL)
