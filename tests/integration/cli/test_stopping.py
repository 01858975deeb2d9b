"""Ctrl-C, once or twice, leaves nothing of what was begun."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.postgres import Cluster
from tests.integration.cli.conftest import CLIENT_PATH, uri_of
from tests.integration.conftest import only_on
from tests.support.sampling import sample
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = only_on("moto")
DATABASE = "stopped by Ctrl-C"
# More than travels in a pack.
FILL = """
create table one as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, 600000) as i;
"""
# `pg-s3`, whose requests of a kind, for runs, are held until it is told to stop; it says so by a file.
HELD = """
import re, signal, sys, time
from pathlib import Path
from airflow_pg_s3.cli import connections, stopping
from airflow_pg_s3.cli.main import main

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which is ignored where the tests run under nohup
operation, sign = sys.argv[1:3]
stops, made = [], connections.CommandLineConnections.s3
init = stopping.Stop.__init__

def hold(request, **_):
    if re.search(r"/\\d{6}\\.zst$", request.url.partition("?")[0]):
        Path(sign).touch()
        while not stops[0].cancel.is_set():
            time.sleep(0.01)
        time.sleep(0.5)  # the second Ctrl-C comes while the first one's work is undone

def s3(self):
    client, arguments = made(self)
    client.meta.events.register(f"before-send.s3.{operation}", hold)
    return client, arguments

def note(self, **arguments):
    init(self, **arguments)
    stops.append(self)

connections.CommandLineConnections.s3 = s3
stopping.Stop.__init__ = note
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def source(pg18: Cluster) -> Iterator[Cluster]:
    pg18.create_database(DATABASE)
    pg18.psql(FILL, DATABASE)
    yield pg18
    pg18.drop_database(DATABASE)


@pytest.fixture
def held(environment: dict[str, str], tmp_path: Path, source: Cluster) -> Iterator[Callable]:
    """(operation, *arguments) → the process, as the foreground of a terminal, when its request is held."""
    started: list[subprocess.Popen[str]] = []

    def start(operation: str, *arguments: str) -> subprocess.Popen[str]:
        sign = tmp_path / "held"
        process = subprocess.Popen(
            [sys.executable, "-c", HELD, operation, str(sign), *arguments, *CLIENT_PATH],
            env=environment | {"PGPASSWORD": source.password},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        wait_until(lambda: sign.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def press_ctrl_c(process: subprocess.Popen[str], *, twice: bool) -> str:
    """Return what it said; the shell sees that it was ended by the signal."""
    os.killpg(process.pid, signal.SIGINT)
    if twice:
        said = process.stderr.readline()
        while "stopping" not in said:
            said = process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGINT, err
    assert out == ""
    assert "Traceback" not in err
    assert ("still undoing" in err) == twice
    return err


@pytest.mark.parametrize("twice", [False, True])
def test_a_backup_leaves_nothing(held, source, repository, spool_dir, leftovers, processes, twice):
    process = held("PutObject", "backup", uri_of(source, DATABASE), repository, "--spool-dir", str(spool_dir))
    said = press_ctrl_c(process, twice=twice)
    assert "error: the backup was stopped before its end; nothing of it is kept" in said
    assert leftovers() == []
    assert processes() == []


def test_a_backup_whose_terminal_is_closed_leaves_nothing(
    held, source, repository, spool_dir, leftovers, processes
):
    process = held("PutObject", "backup", uri_of(source, DATABASE), repository, "--spool-dir", str(spool_dir))
    process.stdout.close()
    process.stderr.close()
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(timeout=PATIENCE_SECONDS) == -signal.SIGHUP
    assert leftovers() == []
    assert processes() == []


@pytest.mark.parametrize("twice", sample([False, True], 1, "stopped twice"))
def test_a_restore_leaves_nothing(held, source, back_up, new_name, spool_dir, processes, twice):
    done = back_up(source, DATABASE)
    copy = new_name(source)
    work = ("--spool-dir", str(spool_dir))
    said = press_ctrl_c(held("GetObject", "restore", done["uri"], uri_of(source, copy), *work), twice=twice)
    assert "error: the restore was stopped" in said
    assert source.psql(f"select count(*) from pg_database where datname like '{copy}%'").strip() == "0"
    assert processes() == []
