"""A throwaway PostgreSQL is reached by nobody else, and nothing of it stays, however its owner ends."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from airflow_pg_s3.core.errors import Cancelled, InputError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.verify import throwaway_server as throwaway
from airflow_pg_s3.core.verify.throwaway_server import choose_installation, throwaway_server
from airflow_pg_s3.core.workspace import resources
from airflow_pg_s3.core.workspace.janitor import processes_of
from testkit.postgres import installations
from testkit.unprivileged_user import NOBODY
from tests.support.sampling import sample

ROOT = Path(__file__).parents[3]
INSTALLED = [str(folder) for folder in installations().values()]
STRANGER = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")


def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that anybody may pass through, unlike those of pytest: the workspace must keep strangers out."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def server(folder: Path, major: int, **arguments):
    defaults = {
        "raw_bytes": 1000,
        "connections": 5,
        "spool_dir": str(folder),
        "search": INSTALLED,
        "cancel": threading.Event(),
        "log": logging.getLogger(__name__),
    }
    return throwaway_server(major, **defaults | arguments)


def workspace_in(folder: Path) -> Path:
    (workspace,) = folder.iterdir()
    return workspace


def shared_memory_made_by(pid: int) -> list[str]:
    """System V segments, which outlive a server that is killed; cpid is the fifth column."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[4] == str(pid)]


def postmaster_of(workspace: Path) -> int:
    return int((workspace / "data/postmaster.pid").read_text().split()[0])


@pytest.mark.parametrize("major", sample(sorted(installations()), 2, "throwaway servers"))
def test_each_major_runs_out_of_reach_of_the_network_and_is_gone_afterwards(major: int, tmp_path: Path):
    with server(tmp_path, major) as params:
        workspace = workspace_in(tmp_path)
        pid = postmaster_of(workspace)
        with params.connect() as connection:
            assert connection.info.server_version // 10000 == major
            for setting, value in {
                "listen_addresses": "",
                "autovacuum": "off",
                "fsync": "off",
                "shared_preload_libraries": "",
            }.items():
                assert connection.execute("select current_setting(%s)", [setting]).fetchone() == (value,)
            assert len(processes_of(str(workspace))) > 4
        assert len(shared_memory_made_by(pid)) == 1
    assert list(tmp_path.iterdir()) == []
    assert processes_of(str(workspace)) == []
    assert shared_memory_made_by(pid) == []


def test_the_next_newer_major_serves_where_the_right_one_is_missing(monkeypatch):
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    without_17 = [str(folder) for major, folder in installations().items() if major != 17]
    assert choose_installation(17, without_17).major == 18


def test_what_to_install_is_said_where_no_server_is(tmp_path: Path, monkeypatch):
    only_clients = tmp_path / "bin"
    only_clients.mkdir()
    for program in ("pg_dump", "pg_restore"):
        (only_clients / program).symlink_to(Path(INSTALLED[-1]) / program)
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InputError) as refusal:
        choose_installation(16, [str(only_clients)])
    for part in ("PostgreSQL 16 or newer", "(client programs only)", "postgresql-16", "[clients]",
                 "[pg_s3] client_path", "postgres_conn_id"):  # fmt: skip
        assert part in str(refusal.value)


def test_a_disk_that_is_too_small_is_said_with_numbers_before_anything_is_made(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * 10**9))
    message = r"4\.0 GB free, but .*2,000,000,000 bytes of data takes 5\.\d GB"
    with pytest.raises(InputError, match=message), server(tmp_path, 16, raw_bytes=2 * 10**9):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_any_depth_will_do(tmp_path: Path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with server(deep, 16) as params, params.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert list(deep.iterdir()) == []


@as_root
def test_another_user_of_the_machine_gets_neither_to_the_files_nor_to_the_socket(open_folder: Path):
    with server(open_folder, 16):
        workspace = workspace_in(open_folder)
        socket = workspace / "data/.s.PGSQL.5432"
        assert socket.is_socket()
        script = f"test -e {socket} || test -r {workspace} || test -e {workspace}/server.log"
        assert subprocess.run(["sh", "-c", script], user=STRANGER, group=STRANGER, extra_groups=[]).returncode == 1


def pythons_of_nobody() -> list[str]:
    """This Python, or the system's of the same version, if nobody can run it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = []
    for python in (sys.executable, f"/usr/bin/python{version}"):
        with contextlib.suppress(OSError):
            subprocess.run([python, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], check=True)
            found.append(python)
    return found


OWNER = """
import logging, sys, threading
sys.path[:0] = {paths!r}
from airflow_pg_s3.core.verify.throwaway_server import throwaway_server
with throwaway_server(16, raw_bytes=1000, connections=5, spool_dir=sys.argv[1], search={search!r},
                      cancel=threading.Event(), log=logging.getLogger()) as params:
    sessions = [params.connect() for _ in range(3)]
    for session in sessions[1:]:
        threading.Thread(target=session.execute, args=["select pg_sleep(3600)"], daemon=True).start()
    print(sessions[0].execute("show data_directory").fetchone()[0], flush=True)
    sys.stdin.read()
"""


def start_owner(folder: Path, python: str = sys.executable, **options) -> subprocess.Popen:
    packages = str(Path(psycopg.__file__).parents[1])
    script = OWNER.format(paths=[str(ROOT / "provider"), str(ROOT), packages], search=INSTALLED)
    return subprocess.Popen(
        [python, "-c", script, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def test_after_a_sigkill_of_the_owner_no_process_no_file_and_no_shared_memory_is_left(tmp_path: Path):
    with start_owner(tmp_path) as owner:
        try:
            assert owner.stdout.readline()
            workspace = workspace_in(tmp_path)
            pid = postmaster_of(workspace)
            assert until(lambda: len(processes_of(str(workspace))) >= 7)  # three sessions among them
        finally:
            os.killpg(owner.pid, signal.SIGKILL)
    assert until(lambda: not list(tmp_path.iterdir()))
    assert processes_of(str(workspace)) == []
    assert shared_memory_made_by(pid) == []


@as_root
def test_a_worker_that_is_not_root_runs_the_server_itself(open_folder: Path):
    if not (pythons := pythons_of_nobody()):
        pytest.skip("no Python of this version is within reach of nobody")
    own = open_folder / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    with start_owner(own, pythons[0], user=NOBODY, group=NOBODY, extra_groups=[]) as owner:
        try:
            assert owner.stdout.readline()
            assert (workspace_in(own) / "data").stat().st_uid == NOBODY
        finally:
            os.killpg(owner.pid, signal.SIGKILL)
    assert until(lambda: not list(own.iterdir()))


@as_root
def test_a_worker_without_a_name_is_told_what_to_do(open_folder: Path):
    if not (pythons := pythons_of_nobody()):
        pytest.skip("no Python of this version is within reach of nobody")
    own = open_folder / "own"
    own.mkdir()
    # As on OpenShift: an id that no passwd knows, and the group 0.
    os.chown(own, STRANGER, 0)
    as_stranger = {"user": STRANGER, "group": 0, "extra_groups": []}
    initdb = subprocess.run(
        [f"{installations()[16]}/initdb", "--pgdata=data", "--username=postgres"],
        cwd=own, capture_output=True, text=True, **as_stranger,
    )  # fmt: skip
    assert "could not look up effective user ID 12345: user does not exist" in initdb.stderr
    with start_owner(own, pythons[0], stderr=subprocess.PIPE, **as_stranger) as owner:
        said = owner.communicate()[1]
    assert "InputError: a throwaway PostgreSQL takes initdb" in said
    assert "this worker's id 12345 has no entry in /etc/passwd: add one" in said
    assert list(own.iterdir()) == []


@as_root
def test_root_hands_it_to_a_user_of_lesser_rights(tmp_path: Path):
    with server(tmp_path, 16):
        pid = postmaster_of(workspace_in(tmp_path))
        assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_the_wish_to_stop_is_heeded_while_it_starts(tmp_path: Path):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled), server(tmp_path, 16, cancel=cancel):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_at_its_start_says_why(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(throwaway._SETTINGS, "shared_buffers", "nonsense")
    with (
        pytest.raises(Exception, match=r'(?s)postgres exited with status 1.*"shared_buffers"'),
        server(tmp_path, 16),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_sessions_that_are_busy_do_not_keep_it(tmp_path: Path):
    with server(tmp_path, 16) as params:
        workspace = workspace_in(tmp_path)
        session = params.connect()
        busy = threading.Thread(target=sleep, args=[session])
        busy.start()
        assert until(lambda: any("SELECT" in title for title in titles(workspace)))
    busy.join()
    assert processes_of(str(workspace)) == []


def sleep(session: psycopg.Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        session.execute("select pg_sleep(3600)")


def titles(workspace: Path) -> list[str]:
    found = []
    for pid in processes_of(str(workspace)):
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
    return found
