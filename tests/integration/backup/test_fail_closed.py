"""Whatever goes wrong, no backup looks complete that isn't, and nothing of it stays."""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from botocore.awsrequest import AWSResponse

from airflow_pg_s3.core.backup import backup as backup_verb
from airflow_pg_s3.core.backup import pg_dump
from airflow_pg_s3.core.backup.manifest_builder import build_manifest
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.errors import Cancelled, ClientProgramError, DataConflict, PgS3Error, StorageError
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.postgres.server import inspect
from airflow_pg_s3.core.repository.repository import Begun, Repository
from airflow_pg_s3.core.s3.upload import Uploader
from airflow_pg_s3.hooks import connections as resolving
from airflow_pg_s3.hooks import pg_s3 as hook
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import only_on
from tests.support.waiting import PATIENCE_SECONDS, wait_until

MIB = 1 << 20
DATABASE = "fail closed"
RUN = r"/\d{6}\.zst"
# Hexadecimal digits halve at best, so the large tables are several runs each.
FILL = """
create table one as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, 1200000) as i;
create table two as table one;
create table small as select 1 as i;
"""
# A backup whose runs are held until the test lets them go on, or the task is told to stop.
KILLABLE = """
import os, signal, sys, time
from airflow_pg_s3.hooks import connections
from airflow_pg_s3.operators.backup import PgS3BackupOperator

original = connections.s3_client
def held(*of):
    client, arguments = original(*of)
    client.meta.events.register("before-send.s3.PutObject", hold)
    return client, arguments
def hold(request, **_):
    if not request.url.endswith("/000001.zst"):
        return
    open(sys.argv[3] + " when told", "w").close()
    while not (task._cancel.is_set() or os.path.exists(sys.argv[3])):
        time.sleep(0.01)
connections.s3_client = held
task = PgS3BackupOperator(
    task_id="b", repository=sys.argv[1], postgres_conn_id="pg_source", aws_conn_id="aws", spool_dir=sys.argv[2],
    spool_limit=24 << 20,
)
# As Airflow's task runner does it.
signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
task.execute({})
"""


@pytest.fixture(scope="module")
def source(pg18: Cluster) -> Iterator[Cluster]:
    pg18.create_database(DATABASE)
    pg18.psql(FILL, DATABASE)
    yield pg18
    pg18.drop_database(DATABASE)


@pytest.fixture
def back_up(back_up: Callable[..., dict]) -> Callable[..., dict]:
    """The same with the smallest spool, so that pg_dump still runs when chunks are uploaded."""
    return functools.partial(back_up, spool_limit=24 * MIB)


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    request = functools.partial(BackupRequest, run_bytes=5 * MIB)
    monkeypatch.setattr(hook, "BackupRequest", request)


@pytest.fixture
def on_put(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable], list[int]]:
    """(end of a key, as a pattern; function) → calls it with the number of each PutObject of such a key.

    The function may answer the request itself. One at a time: whatever it does, the other requests wait for it.
    """

    def register(key: str, answer: Callable[[int, object], AWSResponse | None]) -> list[int]:
        numbers: list[int] = []
        lock = threading.Lock()

        def intercept(request: object, **_: object) -> AWSResponse | None:
            if not re.search(f"{key}$", request.url):
                return None
            with lock:
                numbers.append(len(numbers) + 1)
                return answer(numbers[-1], request)

        original = resolving.s3_client

        def s3_client(*of: object) -> object:
            client, arguments = original(*of)
            client.meta.events.register("before-send.s3.PutObject", intercept)
            return client, arguments

        monkeypatch.setattr(resolving, "s3_client", s3_client)
        return numbers

    return register


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """() → returns when the backup gives its uploads up, so that it can't end in any other way; and it must."""
    given_up: list[threading.Event] = []
    in_time: list[bool] = []

    def uploader(*arguments: object, cancel: threading.Event, **keywords: object) -> Uploader:
        given_up.append(cancel)
        return Uploader(*arguments, cancel=cancel, **keywords)

    monkeypatch.setattr(pg_dump, "Uploader", uploader)
    yield lambda: in_time.append(given_up[-1].wait(PATIENCE_SECONDS))
    assert all(in_time), "the backup did not give its uploads up"


class Body:
    """What botocore reads an answer from."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self._text


def refusal(request: object, status: int, code: str) -> AWSResponse:
    text = f"<Error><Code>{code}</Code><Message>by the test</Message></Error>".encode()
    return AWSResponse(request.url, status, {"content-type": "application/xml"}, Body(text))


def in_background(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def pg_dump_pids(processes: Callable[[], list[int]]) -> list[int]:
    """Pids of pg_dump, the leader first."""
    parents = {}
    for pid in processes():
        with contextlib.suppress(OSError):  # gone meanwhile
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if status["Name"] == "pg_dump":
                parents[pid] = int(status["PPid"])
    return sorted(parents, key=lambda pid: parents[pid] in parents)


@only_on("moto")
def test_a_pg_dump_that_fails_leaves_nothing(source: Cluster, back_up: Callable, leftovers: Callable) -> None:
    with source.connect(DATABASE) as blocker, blocker.transaction():
        blocker.execute("lock table two in access exclusive mode")
        with pytest.raises(ClientProgramError, match=r"(?s)pg_dump exited with status 1.*canceling statement"):
            back_up(source, DATABASE, pg_dump_options=["--lock-wait-timeout=200"])
    assert leftovers() == []


def test_a_pg_dump_that_fails_in_the_middle_leaves_nothing(
    source: Cluster, back_up: Callable, leftovers: Callable, on_put: Callable
) -> None:
    def end_sessions(number: int, _: object) -> None:
        if number == 2:
            source.psql(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pg_dump'"
            )

    runs = on_put(RUN, end_sessions)
    with pytest.raises(
        ClientProgramError, match=r"(?s)pg_dump exited with status 1.*(PQgetCopyData|terminating connection)"
    ):
        back_up(source, DATABASE)
    assert len(runs) >= 2
    assert leftovers() == []


@only_on("moto")
@pytest.mark.parametrize("victim", ["leader", "worker"])
def test_a_pg_dump_that_is_killed_leaves_nothing(
    source: Cluster, back_up: Callable, leftovers: Callable, on_put: Callable, processes: Callable, victim: str
) -> None:
    killed = []

    def kill(number: int, _: object) -> None:
        if number == 2:
            killed.append(pg_dump_pids(processes)[0 if victim == "leader" else -1])
            os.kill(killed[0], signal.SIGKILL)

    on_put(RUN, kill)
    expected = "was killed by signal 9" if victim == "leader" else "exited with status 1"
    with pytest.raises(ClientProgramError, match=f"pg_dump {expected}"):
        back_up(source, DATABASE)
    assert killed
    assert leftovers() == []


def test_a_refused_third_run_leaves_nothing(
    source: Cluster, back_up: Callable, leftovers: Callable, on_put: Callable
) -> None:
    runs = on_put(RUN, lambda number, request: refusal(request, 403, "AccessDenied") if number == 3 else None)
    with pytest.raises(StorageError, match=r"PutObject of some/prefix/fail%20closed/\S+/\d{6}\.zst.*AccessDenied"):
        back_up(source, DATABASE)
    assert len(runs) >= 3
    assert leftovers() == []


@only_on("moto")
def test_a_refused_manifest_leaves_nothing(
    source: Cluster, back_up: Callable, leftovers: Callable, on_put: Callable
) -> None:
    on_put(r"\.json", lambda _, request: refusal(request, 403, "AccessDenied"))
    with pytest.raises(StorageError, match="cannot write s3://"):
        back_up(source, DATABASE)
    assert leftovers() == []


def test_a_manifest_key_that_is_taken_stays_as_it_is(
    source: Cluster,
    back_up: Callable,
    leftovers: Callable,
    s3: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backup_id = "20260101T000000Z-abcdef"
    key = f"some/prefix/fail%20closed/{backup_id}.json"
    s3.client().put_object(Bucket=bucket, Key=key, Body=b"somebody else's")
    monkeypatch.setattr(backup_verb, "new_backup_id", lambda now: backup_id)
    with pytest.raises(AirflowFailException, match="exists already, and is not ours") as caught:
        back_up(source, DATABASE)
    assert isinstance(caught.value.__context__, DataConflict)
    assert leftovers() == [key]
    assert s3.client().get_object(Bucket=bucket, Key=key)["Body"].read() == b"somebody else's"


def test_a_backup_whose_lock_was_lost_at_the_commit_is_taken_back(
    source: Cluster, back_up: Callable, leftovers: Callable, on_put: Callable
) -> None:
    ended = []

    def end_our_session(*_: object) -> None:
        # After the last look at the lock before the commit.
        if not ended:
            query = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = "
            ended.append(source.psql(query + "'airflow-provider-pg-s3'"))

    on_put(r"\.json", end_our_session)
    with pytest.raises(PgS3Error, match="the connection that marks this backup as alive was lost"):
        back_up(source, DATABASE)
    assert ended
    # Of a server that was restarted meanwhile, the next run could not tell that nobody is at work.
    assert leftovers() == []


@only_on("moto")
def test_an_object_that_vanished_before_the_commit_means_no_backup(
    source: Cluster,
    back_up: Callable,
    leftovers: Callable,
    s3: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    describe = build_manifest

    def delete_one(dump: object, backup_id: str, *rest: object) -> object:
        manifest = describe(dump, backup_id, *rest)
        key = f"some/prefix/fail%20closed/{list(manifest.object_keys())[-1]}"
        s3.client().delete_object(Bucket=bucket, Key=key)
        return manifest

    monkeypatch.setattr(backup_verb, "build_manifest", delete_one)
    with pytest.raises(StorageError, match="1 objects are not as they were stored"):
        back_up(source, DATABASE)
    assert leftovers() == []


def test_a_task_that_times_out_leaves_nothing(
    source: Cluster, back_up: Callable, leftovers: Callable, on_put: Callable, hold: Callable
) -> None:
    def let_time_run_out(number: int, _: object) -> None:
        if number == 1:
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        # A task that sat in a join would wait for the run, and the run for the task.
        hold()

    runs = on_put(RUN, let_time_run_out)
    with pytest.raises(AirflowTaskTimeout), timeout(10 * PATIENCE_SECONDS):
        back_up(source, DATABASE)
    assert runs
    assert leftovers() == []


@only_on("moto")
def test_a_full_disk_leaves_nothing(
    source: Cluster, back_up: Callable, leftovers: Callable, on_put: Callable, hold: Callable, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        on_put(RUN, lambda *_: hold())
        with pytest.raises((ClientProgramError, PgS3Error), match="No space left on device"):
            back_up(source, DATABASE, spool_dir=str(small))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert leftovers() == []


class Task:
    """A backup in a process group of its own, as under Airflow, in the middle of its upload until `go_on`."""

    def __init__(self, repository: str, spool_dir: Path) -> None:
        self._release = spool_dir.with_name("go on")
        self.process = subprocess.Popen(
            [sys.executable, "-c", KILLABLE, repository, str(spool_dir), str(self._release)],
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )
        held = spool_dir.with_name("go on when told")
        wait_until(lambda: held.exists() or self.process.poll())
        assert self.process.poll() is None

    def go_on(self) -> None:
        self._release.touch()

    def wait(self) -> str:
        return self.process.communicate(timeout=PATIENCE_SECONDS)[1]


@pytest.fixture
def task(source: Cluster, connections: object, repository: str, spool_dir: Path) -> Iterator[Task]:
    connections.source(source, DATABASE)
    task = Task(repository, spool_dir)
    yield task
    if task.process.poll() is None:
        os.killpg(task.process.pid, signal.SIGKILL)
        task.wait()


def test_a_task_that_is_told_to_stop_leaves_nothing(task: Task, leftovers: Callable, processes: Callable) -> None:
    os.killpg(task.process.pid, signal.SIGTERM)
    stderr = task.wait()
    assert task.process.returncode == 1
    assert Cancelled.__name__ in stderr.splitlines()[-1] or "the backup was stopped" in stderr
    assert leftovers() == []
    assert processes() == []


@pytest.mark.parametrize(
    ("s3", "whole_group"),
    [("moto", True), ("ceph", True), ("moto", False)],
    ids=["moto, whole group", "ceph, whole group", "moto, task process alone"],
    indirect=["s3"],
)
def test_a_task_that_is_killed_leaves_no_process_and_the_next_run_removes_the_rest(
    task: Task,
    source: Cluster,
    back_up: Callable,
    leftovers: Callable,
    processes: Callable,
    spool_dir: Path,
    whole_group: bool,
) -> None:
    if whole_group:
        os.killpg(task.process.pid, signal.SIGKILL)
    else:
        os.kill(task.process.pid, signal.SIGKILL)
    task.wait()
    wait_until(lambda: not processes() and not list(spool_dir.iterdir()))
    assert not [name for name in leftovers() if name.endswith(".json")]
    assert leftovers()
    done = back_up(source, DATABASE)
    folder = done["key"].removesuffix(".json")
    assert [name for name in leftovers() if not name.startswith(folder)] == []
    assert not [name for name in leftovers() if name.endswith("/begun")]


@only_on("moto")
def test_a_manifest_that_arrives_while_the_dead_backups_objects_are_removed_is_removed_too(
    source: Cluster, back_up: Callable, leftovers: Callable, s3: S3Server, bucket: str, monkeypatch
) -> None:
    keys = []
    remove_data = Repository.remove_data

    def remove_while_it_arrives(self: Repository, database: str, backup_id: str) -> int:
        count = remove_data(self, database, backup_id)
        keys.append(f"{self.base(database)}{backup_id}.json")
        s3.client().put_object(Bucket=bucket, Key=keys[0], Body=b"{}")
        return count

    server = parameters(database=DATABASE, keywords=source.keywords)
    with server.connect() as connection:
        instance = inspect(connection, server).instance
    dead = Begun(backup_id="20260101T000000Z-000000", database=DATABASE, instance=instance)
    monkeypatch.setattr(Repository, "abandoned", lambda self, database: iter([dead]))
    monkeypatch.setattr(Repository, "remove_data", remove_while_it_arrives)
    done = back_up(source, DATABASE)
    assert len(keys) == 1
    assert [name for name in leftovers() if name.endswith(".json")] == [done["key"]]


@only_on("moto")
def test_a_run_leaves_another_that_is_alive_alone(
    task: Task, repository: str, spool_dir: Path, leftovers: Callable
) -> None:
    done = PgS3BackupOperator(
        task_id="b",
        repository=repository,
        postgres_conn_id="pg_source",
        aws_conn_id="aws",
        spool_dir=str(spool_dir),
    ).execute({})
    assert task.process.poll() is None
    task.go_on()
    stderr = task.wait()
    assert task.process.returncode == 0, stderr
    manifests = [name for name in leftovers() if name.endswith(".json")]
    assert len(manifests) == 2
    assert done["key"] in manifests
