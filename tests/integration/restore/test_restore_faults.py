"""A restore gives back what was backed up, or fails and says why."""

import contextlib
import os
import re
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from backports import zstd
from botocore.exceptions import IncompleteReadError
from botocore.response import StreamingBody

from airflow_pg_s3.core.errors import ClientProgramError, CopyError, IntegrityError, ServerError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.restore import backup_source
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import back_up_once, only_on
from tests.support.sampling import combine
from tests.support.waiting import wait_until

DATABASE = "restore faults"
# For what happens at once, unless it never does.
PATIENCE_SECONDS = 120
PIECE_BYTES = 100_000
BUILDING = "select count(*) from pg_stat_activity where datname = '{}' and query like 'CREATE INDEX%'"
END_COPIES = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'COPY%' and state = 'active'"
# The large table alone is stored in runs, so that what is damaged there is its data; the others are packed.
FILL = """
create table large as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, 300000) as i;
create table other as select i, md5(i::text) as noise from generate_series(1, 2000) as i;
create table small as select i from generate_series(1, 100) as i;
"""


@pytest.fixture(scope="module")
def source(pg16: Cluster) -> Iterator[Cluster]:
    pg16.create_database(DATABASE)
    pg16.psql(FILL, DATABASE)
    yield pg16
    pg16.drop_database(DATABASE)


@pytest.fixture(scope="module")
def backups() -> dict[S3Server, dict]:
    return {}


@pytest.fixture
def backup(source: Cluster, s3: S3Server, backups: dict[S3Server, dict]) -> dict:
    """One for each S3 server; who damages it has to mend it."""
    if s3 not in backups:
        bucket = s3.create_bucket(f"restore-faults-{uuid.uuid4().hex[:8]}")
        backups[s3] = back_up_once(source, DATABASE, s3, f"s3://{bucket}/some/prefix")
    return backups[s3]


@pytest.fixture
def restore_fails(source: Cluster, restore: Callable[..., dict], new_name: Callable[..., str], backup: dict):
    """(error, message) → restores, and makes sure that it fails so, and that the database is gone again."""

    def check(error: type[BaseException], message: str, **arguments: object) -> None:
        target = new_name(source, "target")
        with pytest.raises(error, match=message):
            restore(source, target, backup=backup["uri"], **arguments)
        with source.connect() as connection:
            assert connection.execute("select 1 from pg_database where datname = %s", [target]).fetchone() is None

    return check


@pytest.fixture
def tamper(s3: S3Server, backup: dict, object_of) -> Iterator[Callable[..., str]]:
    """(table name, function of bytes) → changes the object that holds the table's data, for this test; its key."""
    client = s3.client()
    bucket = backup["uri"].split("/")[2]
    before: dict[str, bytes] = {}

    def change(table: str, edit: Callable[[bytes], bytes | None]) -> str:
        key = object_of(backup, table)
        before[key] = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        edited = edit(before[key])
        if edited is None:
            client.delete_object(Bucket=bucket, Key=key)
        else:
            client.put_object(Bucket=bucket, Key=key, Body=edited)
        return key

    yield change
    for key, data in before.items():
        client.put_object(Bucket=bucket, Key=key, Body=data)


def flip(position: float) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        index = int(len(data) * position)
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return edit


@only_on("moto")
@pytest.mark.parametrize(
    ("position", "table"), combine([0.0, 0.3, 0.95], ["large", "small"], name="flipped bit of a restore")
)
def test_a_flipped_bit_is_found_and_named(restore_fails, tamper, table: str, position: float) -> None:
    key = tamper(table, flip(position))
    where = r"the data of public\.large \(\d+\.dat\)" if table == "large" else re.escape(key.rpartition("/")[2])
    restore_fails(IntegrityError, where)


def test_a_truncated_object_is_found_and_named(restore_fails, tamper) -> None:
    # Into its chunks: what is behind the last of them is no part of the backup.
    tamper("large", lambda data: data[: len(data) // 2])
    restore_fails(IntegrityError, r"the data of public\.large .* has \d+ bytes, but at least \d+ were stored")


def test_a_missing_object_is_found_and_named(restore_fails, tamper) -> None:
    tamper("large", lambda _: None)
    restore_fails(IntegrityError, r"the data of public\.large .* is missing")


@only_on("moto")
def test_other_content_of_the_same_length_is_found_and_named(restore_fails, tamper) -> None:
    # Well-formed and of the same size: only the digest of the content can tell.
    def other_rows(data: bytes) -> bytes:
        lines = zstd.decompress(data).split(b"\n")
        # Zeros compress to less than noise; a skippable frame (RFC 8878, 3.1.2) fills up.
        lines[:1000] = [line[:-64] + b"0" * 64 for line in lines[:1000]]
        packed = zstd.compress(b"\n".join(lines), 1)
        filler = len(data) - len(packed) - 8
        assert filler >= 0
        return (0x184D2A50).to_bytes(4, "little") + filler.to_bytes(4, "little") + bytes(filler) + packed

    tamper("large", other_rows)
    restore_fails(IntegrityError, r"the data of public\.large")


def test_bodies_that_break_off_are_continued_where_they_broke(
    source: Cluster, backup: dict, assert_restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = []
    read = StreamingBody.read

    def break_sometimes(self: StreamingBody, amt: int | None = None) -> bytes:
        # Each body gives one piece, and then breaks: only every third one lives.
        self.pieces = getattr(self, "pieces", 0) + 1
        if amt is not None and self.pieces == 2 and len(broken) % 3 != 2:
            broken.append(self)
            raise IncompleteReadError(actual_bytes=1, expected_bytes=2)
        if amt is not None and self.pieces == 2:
            broken.append(None)
        return read(self, None if amt is None else min(amt, 100_000))

    monkeypatch.setattr(StreamingBody, "read", break_sometimes)
    assert_restored(source, DATABASE, source, backup)
    assert len([body for body in broken if body is not None]) > 4


@pytest.fixture
def while_loading(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """(action): call it, once, while a session copies a table; the data waits until it is done."""

    def once(action: Callable[[], object]) -> None:
        read = StreamingBody.read
        lock = threading.Lock()
        done: list[bool] = []

        def in_pieces(self: StreamingBody, amt: int | None = None) -> bytes:
            if amt is None or amt <= PIECE_BYTES:
                return read(self, amt)
            with lock:
                # Each lane begins its COPY, and then fetches the data.
                if not done and any(thread.name.startswith("lane ") for thread in threading.enumerate()):
                    done.append(True)
                    action()
            return read(self, PIECE_BYTES)

        monkeypatch.setattr(StreamingBody, "read", in_pieces)

    return once


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """() → returns when the restore gives its downloads up, so that it can't end in any other way; and it must."""
    given_up: list[threading.Event] = []
    in_time: list[bool] = []

    def downloader(*arguments: object, cancel: threading.Event, **keywords: object) -> Downloader:
        given_up.append(cancel)
        return Downloader(*arguments, cancel=cancel, **keywords)

    monkeypatch.setattr(backup_source, "Downloader", downloader)
    yield lambda: in_time.append(given_up[-1].wait(PATIENCE_SECONDS))
    assert in_time == [True], "the restore did not give its downloads up"


def pg_restore_pids(processes: Callable[[], list[int]]) -> list[int]:
    """Pids of pg_restore, the leader first."""
    parents = {}
    for pid in processes():
        with contextlib.suppress(OSError):  # gone meanwhile
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if status["Name"] == "pg_restore":
                parents[pid] = int(status["PPid"])
    return sorted(parents, key=lambda pid: parents[pid] in parents)


# Building the indexes takes for ever, but in the source.
SLOW = """
create function slow(i int) returns int immutable language plpgsql as
    $$ begin if current_database() <> '{source}' then perform pg_sleep(600); end if; return i; end $$;
create table a as select 1 as i; create index on a (slow(i));
create table b as select 1 as i; create index on b (slow(i));
"""


@only_on("moto")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_pg_restore_that_is_killed_fails_the_task_and_its_workers_do_not_outlive_it(
    source: Cluster, back_up, restore, new_name, new_database, processes, jobs: int
) -> None:
    database = new_database(source)
    source.psql(SLOW.format(source=database), database)
    backup, target = back_up(source, database), new_name(source)

    def kill() -> None:
        wait_until(lambda: source.psql(BUILDING.format(target)) == f"{jobs}\n")
        os.kill(pg_restore_pids(processes)[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(ClientProgramError, match="pg_restore was killed by signal 9"):
        restore(source, target, backup=backup["uri"], jobs=jobs)
    thread.join()
    assert processes() == []


@only_on("moto")
def test_a_server_that_ends_the_session_fails_the_task(source: Cluster, restore_fails, while_loading) -> None:
    ended = []
    while_loading(lambda: ended.append(source.psql(END_COPIES)))
    restore_fails(CopyError, r"the rows of public\.large could not be loaded", tables=["large"])
    assert "t" in ended[0]


def test_a_restore_that_times_out_ends_and_leaves_no_process(
    restore_fails, processes, while_loading, hold
) -> None:
    def let_time_run_out() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        hold()

    while_loading(let_time_run_out)
    with timeout(10 * PATIENCE_SECONDS):
        restore_fails(AirflowTaskTimeout, "Timeout")
    assert processes() == []


@only_on("moto")
def test_what_the_server_refuses_to_drop_fails_the_task_with_its_words(
    source: Cluster, backup: dict, restore, new_database
) -> None:
    # An index of the same name as a table is no user object of the backup's, but in its way.
    target = new_database(source, "create table public.blocker (i int); create index large on blocker (i)")
    with pytest.raises(ServerError, match=r'DROP TABLE IF EXISTS public.large.* "large" is not a table'):
        restore(source, target, backup=backup["uri"], if_exists="clean")


def only_client(connections, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    connections.set_option("client_path", str(cluster.pg_bin))
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")


@only_on("moto")
def test_a_newer_client_serves_an_older_server_though_it_does_not_know_a_setting(
    source: Cluster, pg18: Cluster, connections, back_up, restore, new_name, manifest_of, monkeypatch
) -> None:
    only_client(connections, monkeypatch, pg18)
    backup = back_up(source, DATABASE)
    assert manifest_of(backup).dump.pg_dump_version.startswith("18")
    for jobs in (1, 3):
        target = new_name(source)
        restore(source, target, backup=backup["uri"], jobs=jobs)
        assert compare_databases(source.dsn(DATABASE), source.dsn(target)) == []


@only_on("moto")
def test_that_one_error_is_tolerated_and_no_other(
    source: Cluster, pg18: Cluster, connections, back_up, restore, new_database, monkeypatch
) -> None:
    only_client(connections, monkeypatch, pg18)
    backup = back_up(source, DATABASE)
    # A type of the same name as a table is none of the backup's relations, but in its way.
    target = new_database(source, "create domain public.large as int")
    with pytest.raises(ClientProgramError, match=r'"large" already exists'):
        restore(source, target, backup=backup["uri"], tables=["large"])


@only_on("moto")
def test_a_restore_stops_when_it_is_told_to(
    source: Cluster, backup: dict, connections, spool_dir: Path, new_name, while_loading, hold
) -> None:
    target = new_name(source)
    connections.target(source, target)
    task = PgS3RestoreOperator(
        task_id="r",
        backup=backup["uri"],
        postgres_conn_id="pg_target",
        aws_conn_id="aws",
        spool_dir=str(spool_dir),
    )

    def stop() -> None:
        task.on_kill()
        hold()

    while_loading(stop)
    with pytest.raises(Exception, match="the restore was stopped"):
        task.execute({})
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        source.connect(target)
