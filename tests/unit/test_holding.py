"""A pipe that the janitor holds, too, does not end with its owner, but when it is let go."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_pg_s3.core import holding, janitor
from airflow_pg_s3.core.workspace import Workspace
from tests.waiting import wait_until

OWNER = """
import os, subprocess, sys, time
from airflow_pg_s3.core.workspace import Workspace
with Workspace(sys.argv[1]) as ours:
    writer = os.open(sys.argv[2], os.O_WRONLY)
    ours.hold(writer)
    reader = subprocess.Popen(
        ["sh", "-c", f"cat {sys.argv[2]} > {sys.argv[3]}; touch {sys.argv[4]}"], env=os.environ | ours.environment
    )
    os.write(writer, b"a part")
    print(ours.folder, ours._janitor.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)


def ends(reader: int) -> bool:
    try:
        return os.read(reader, 100) == b""
    except BlockingIOError:
        return False


def test_a_reader_sees_no_end_before_the_workspaces_processes_are_gone(tmp_path: Path):
    fifo, copy, seen = (tmp_path / name for name in ("fifo", "copy", "seen"))
    os.mkfifo(fifo)
    outside = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    argv = [sys.executable, "-c", OWNER, *map(str, (tmp_path, fifo, copy, seen))]
    owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    folder, pid = owner.stdout.readline().split()
    wait_until(lambda: copy.exists() and copy.read_bytes() == b"a part")
    os.kill(int(pid), signal.SIGSTOP)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    time.sleep(0.3)
    assert not ends(outside)
    assert len(janitor.processes_of(folder)) >= 2
    os.kill(int(pid), signal.SIGCONT)
    wait_until(lambda: ends(outside))
    assert janitor.processes_of(folder) == []
    assert not seen.exists()
    os.close(outside)


def test_a_pipe_ends_as_soon_as_it_is_let_go(tmp_path, pipe):
    reader, writer = pipe
    with Workspace(str(tmp_path)) as ours:
        let_go = ours.hold(writer)
        os.close(writer)
        assert not ends(reader)
        let_go()
        assert ends(reader)


def test_a_thousand_pipes_take_no_time_and_no_descriptor(tmp_path):
    with Workspace(str(tmp_path)) as ours:
        ours.hold(0)()  # it has started
        files = f"/proc/{ours._janitor.pid}/fd"
        before, began = len(os.listdir(files)), time.monotonic()
        for _ in range(1000):
            ours.hold(0)()
        print(f"{time.monotonic() - began:.3f} s")
        assert time.monotonic() - began < 10
        assert len(os.listdir(files)) == before


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_janitor_that_was_killed_holds_nothing_and_is_no_error(tmp_path, pipe, dies):
    reader, writer = pipe
    with Workspace(str(tmp_path)) as ours:
        let_go = ours.hold(writer) if dies == "after" else None
        ours._janitor.kill()
        ours._janitor.wait()
        let_go = let_go or ours.hold(writer)
        os.close(writer)
        let_go()
        assert ends(reader)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("messages", [1, 2000], ids=["it does not let go", "it does not even take"])
def test_a_janitor_that_does_not_answer_is_no_hang(tmp_path, pipe, monkeypatch, messages):
    monkeypatch.setattr(holding, "_PATIENCE_SECONDS", 0.2)
    reader, writer = pipe
    with Workspace(str(tmp_path)) as ours:
        let_go = ours.hold(writer)
        os.kill(ours._janitor.pid, signal.SIGSTOP)
        for _ in range(messages):
            if (last := ours.hold(writer)) is holding._nothing:
                break
        assert (last is holding._nothing) == (messages > 1)
        os.close(writer)
        let_go()
        wait_until(lambda: ends(reader))
    assert list(tmp_path.iterdir()) == []


def test_no_program_inherits_what_is_held_nor_the_line_to_the_janitor(tmp_path, pipe):
    _, writer = pipe
    with Workspace(str(tmp_path)) as ours:
        let_go = ours.hold(writer)
        with subprocess.Popen(["sleep", "600"], close_fds=False) as child:
            wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
            line = os.readlink(f"/proc/self/fd/{ours._holder._line.fileno()}")
            open_files = {
                os.readlink(f"/proc/{child.pid}/fd/{name}") for name in os.listdir(f"/proc/{child.pid}/fd")
            }
            child.kill()
        assert not open_files & {line, os.readlink(f"/proc/self/fd/{writer}")}
        os.close(writer)
        let_go()
