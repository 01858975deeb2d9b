"""Of a workspace nothing stays, however its owner ends: no folder, no process, and nobody else is harmed."""

import contextlib
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.workspace import janitor, workspace
from airflow_pg_s3.core.workspace.workspace import Workspace


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.fixture
def start():
    """Start a shell command with these variables alone; all are killed in the end."""
    processes = []

    def run(command, **variables):
        env = {"PATH": os.environ["PATH"], **variables}
        processes.append(subprocess.Popen(["sh", "-c", command], env=env, start_new_session=True))
        return processes[-1]

    yield run
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_folder_is_private_and_so_are_those_in_it(tmp_path):
    old = os.umask(0)
    try:
        with Workspace(str(tmp_path)) as ours:
            assert ours.folder.parent == tmp_path
            for folder in (ours.folder, ours.make_folder("spool")):
                assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        os.umask(old)


def test_the_folder_is_in_the_systems_temporary_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace.tempfile, "tempdir", str(tmp_path))
    for parent in (None, ""):
        with Workspace(parent) as ours:
            assert ours.folder.parent == tmp_path


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_folder_and_processes_are_gone_after_the_block_whatever_it_raises(tmp_path, start, error):
    with contextlib.suppress(*filter(None, [error])), Workspace(str(tmp_path)) as ours:
        (ours.make_folder("spool") / "1.dat").write_text("data")
        child = start("sleep 600", **ours.environment)
        stopped = start("kill -STOP $$; sleep 600", **ours.environment)
        if error is not None:
            raise error
    assert list(tmp_path.iterdir()) == []
    assert child.wait(60) == stopped.wait(60) == -signal.SIGKILL


OWNER = """
import subprocess, sys, time
from airflow_pg_s3.core.workspace.workspace import Workspace
with Workspace(sys.argv[1]) as ours:
    (ours.make_folder("spool") / "1.dat").write_text("data")
    env = {"PATH": "/usr/bin:/bin", **ours.environment}
    children = [
        subprocess.Popen(["sh", "-c", command], env=env, start_new_session=session)
        for command in ("trap '' TERM; sleep 600", "kill -STOP $$; sleep 600", "sleep 600 & wait")
        for session in (False, True)
    ]
    unmarked = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    print(ours.folder, unmarked.pid, *[child.pid for child in children], flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("whole_group", [False, True], ids=["alone", "with its process group"])
def test_folder_and_processes_are_gone_when_the_owner_is_killed_outright(tmp_path, whole_group):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    folder, unmarked, *children = owner.stdout.readline().split()
    try:
        assert until(
            lambda: len(janitor.processes_of(folder)) >= len(children) + 2
        )  # with the sleeps of the shells
        os.killpg(owner.pid, signal.SIGKILL) if whole_group else owner.kill()
        owner.communicate()
        assert until(lambda: not os.path.exists(folder))
        assert not any(is_alive(pid) for pid in children)
        assert until(lambda: is_alive(unmarked) is not whole_group)
        assert list(tmp_path.iterdir()) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)
        for pid in janitor.processes_of(folder):
            os.kill(pid, signal.SIGKILL)


def test_the_janitor_heeds_no_signal_that_is_meant_for_the_task(tmp_path):
    with Workspace(str(tmp_path)) as ours:
        pid = ours._janitor.pid
        assert os.getpgid(pid) != os.getpgrp()
        assert until(lambda: signals_ignored_by(pid) >= {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    assert not is_alive(pid)


def signals_ignored_by(pid):
    with open(f"/proc/{pid}/status") as file:
        mask = int(next(line for line in file if line.startswith("SigIgn:")).split()[1], 16)
    return {number for number in signal.Signals if mask >> number - 1 & 1}


def test_the_owner_cleans_up_itself_if_the_janitor_was_killed(tmp_path, start):
    with Workspace(str(tmp_path)) as ours:
        child = start("sleep 600", **ours.environment)
        ours._janitor.kill()
        ours._janitor.wait()
    assert list(tmp_path.iterdir()) == []
    assert child.wait(60) == -signal.SIGKILL


def test_nothing_stays_if_the_janitor_cannot_be_started(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace.sys, "executable", "/nonexistent/python")
    open_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError), Workspace(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_a_workspace_leaves_no_open_file_behind(tmp_path):
    open_files = len(os.listdir("/proc/self/fd"))
    with Workspace(str(tmp_path)):
        assert len(os.listdir("/proc/self/fd")) > open_files
    assert len(os.listdir("/proc/self/fd")) == open_files


@pytest.mark.parametrize("missing", ["folder", "file/folder"])
def test_a_parent_that_cannot_be_written_is_refused_and_named(tmp_path, missing):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=f"spool_dir {tmp_path}/{missing} cannot be written"),
        Workspace(str(tmp_path / missing)),
    ):
        pass


def test_a_parent_that_must_not_even_be_looked_into_is_refused_and_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    # As for those who may not search it.
    monkeypatch.setattr(workspace.Path, "mkdir", refuse)
    monkeypatch.setattr(workspace.Path, "exists", refuse)
    open_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InputError, match="cannot be written: Permission denied"), Workspace(str(tmp_path)):
        pass
    assert len(os.listdir("/proc/self/fd")) == open_files


def abandoned(parent, name="airflow-pg-s3-abandoned"):
    """What is left when the machine stops: a folder that nobody has locked."""
    folder = parent / name
    (folder / "spool").mkdir(parents=True)
    (folder / "owner.lock").touch()
    (folder / "spool/1.dat").write_text("data")
    return folder


def test_abandoned_workspaces_are_swept_with_their_processes(tmp_path, start):
    folder = abandoned(tmp_path)
    child = start("sleep 600", **{janitor.VARIABLE: str(folder)})
    assert until(lambda: janitor.processes_of(str(folder)))
    with Workspace(str(tmp_path)) as ours:
        assert list(tmp_path.iterdir()) == [ours.folder]
    assert child.wait(60) == -signal.SIGKILL


def test_a_real_workspace_is_swept_when_owner_and_janitor_have_died(tmp_path):
    theirs = Workspace(str(tmp_path)).__enter__()
    theirs._janitor.kill()
    theirs._janitor.communicate()
    theirs._close()
    assert theirs.folder.exists()
    with Workspace(str(tmp_path)) as ours:
        assert list(tmp_path.iterdir()) == [ours.folder]


def test_a_workspace_in_use_is_not_swept_nor_are_its_processes(tmp_path, start):
    with Workspace(str(tmp_path)) as theirs:
        child = start("sleep 600", **theirs.environment)
        with Workspace(str(tmp_path)):
            pass
        assert theirs.folder.exists()
        assert child.poll() is None


DYING = """
import os, signal, sys
from airflow_pg_s3.core.workspace import workspace
module, name = sys.argv[2].split(".")
setattr(getattr(workspace, module), name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
with workspace.Workspace(sys.argv[1]):
    pass
"""


@pytest.mark.parametrize("before", ["subprocess.Popen", "Path.mkdir", "os.open", "fcntl.flock", "os.rename"])
def test_nothing_stays_when_the_owner_is_killed_while_it_makes_the_workspace(tmp_path, before):
    owner = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), before])
    assert owner.returncode == -signal.SIGKILL
    assert until(lambda: list(tmp_path.iterdir()) == [])


def test_a_workspace_that_is_just_being_made_is_not_swept(tmp_path, monkeypatch):
    # Another task begins at the worst moment: the lock's file is there, but not locked.
    flock = fcntl.flock

    def sweep_and_lock(descriptor, operation):
        monkeypatch.setattr(workspace.fcntl, "flock", flock)
        workspace._sweep(tmp_path)
        flock(descriptor, operation)

    monkeypatch.setattr(workspace.fcntl, "flock", sweep_and_lock)
    with Workspace(str(tmp_path)) as ours:
        assert ours.folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_swept(tmp_path):
    folder = abandoned(tmp_path)
    os.chown(folder, 65534, 65534)
    with Workspace(str(tmp_path)):
        pass
    assert (folder / "spool/1.dat").exists()


def test_what_is_no_workspace_is_not_swept(tmp_path):
    abandoned(tmp_path, "somebody-elses")
    (tmp_path / "airflow-pg-s3-file").touch()
    (tmp_path / "airflow-pg-s3-without-a-lock").mkdir()
    (tmp_path / "airflow-pg-s3-link").symlink_to("somebody-elses")
    before = sorted(tmp_path.rglob("*"))
    with Workspace(str(tmp_path)):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_only_processes_of_exactly_this_folder_are_found(start):
    ours = start("sleep 600", **{janitor.VARIABLE: "/tmp/a"})
    start("sleep 600", **{janitor.VARIABLE: "/tmp/ab"})
    start("sleep 600", OTHER=f"{janitor.VARIABLE}=/tmp/a")
    start(f"sleep 600; : {janitor.VARIABLE}=/tmp/a")
    assert until(lambda: janitor.processes_of("/tmp/a") and janitor.processes_of("/tmp/ab"))
    assert until(lambda: set(janitor.processes_of("/tmp/a")) >= {ours.pid})
    for pid in janitor.processes_of("/tmp/a"):
        with open(f"/proc/{pid}/environ") as file:
            assert f"{janitor.VARIABLE}=/tmp/a" in file.read().split("\0")


def test_processes_that_fork_while_they_are_killed_do_not_escape(tmp_path, start):
    folder = abandoned(tmp_path)
    forking = start(
        "n=0; while [ $n -lt 150 ]; do sleep 600 & n=$((n + 1)); done; wait", **{janitor.VARIABLE: str(folder)}
    )
    assert until(lambda: len(janitor.processes_of(str(folder))) > 5)
    janitor.clean_up(str(folder))
    assert janitor.processes_of(str(folder)) == []
    assert forking.wait(60) == -signal.SIGKILL
    assert not folder.exists()
