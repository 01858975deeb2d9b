"""A restore gives back what was backed up, or fails and says why."""

import functools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from backports import zstd
from botocore.exceptions import IncompleteReadError
from botocore.response import StreamingBody

from airflow_pg_s3.core import clients
from airflow_pg_s3.core.errors import ClientProgramError, IntegrityError
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from lab.compare import compare_databases
from lab.postgres import Cluster
from lab.s3 import S3Server

DATABASE = "restore faults"
FILL = """
create table large as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, 300000) as i;
create table other as select i, md5(i::text) as noise from generate_series(1, 100000) as i;
create table small as select i from generate_series(1, 100) as i;
"""


@pytest.fixture(scope="module")
def source(pg16: Cluster) -> Iterator[Cluster]:
    pg16.create_database(DATABASE)
    pg16.psql(FILL, DATABASE)
    yield pg16
    pg16.drop_database(DATABASE)


@pytest.fixture
def backup(source: Cluster, back_up: Callable[..., dict]) -> dict:
    return back_up(source, DATABASE)


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
def tamper(s3: S3Server, bucket: str, backup: dict, manifest_of) -> Callable[..., str]:
    """(table name, function of bytes) → changes the object that holds the table's data; its key."""

    def change(table: str, edit: Callable[[bytes], bytes | None]) -> str:
        manifest = manifest_of(backup)
        member = next(m for m in manifest.members if m.table is not None and m.table.name == table)
        key = backup["key"].rpartition("/")[0] + "/" + member.objects[0]
        client = s3.client()
        edited = edit(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        if edited is None:
            client.delete_object(Bucket=bucket, Key=key)
        else:
            client.put_object(Bucket=bucket, Key=key, Body=edited)
        return key

    return change


def flip(position: float) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        index = int(len(data) * position)
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return edit


@pytest.mark.parametrize("position", [0.0, 0.3, 0.999999])
@pytest.mark.parametrize("table", ["large", "small"])
def test_a_flipped_bit_is_found_and_named(restore_fails, tamper, table: str, position: float) -> None:
    key = tamper(table, flip(position))
    where = r"the data of public\.large \(\d+\.dat\)" if table == "large" else re.escape(key.rpartition("/")[2])
    restore_fails(IntegrityError, where)


def test_a_truncated_object_is_found_and_named(restore_fails, tamper) -> None:
    tamper("large", lambda data: data[:-1])
    restore_fails(IntegrityError, r"the data of public\.large .* has \d+ bytes, but \d+ were stored")


def test_a_missing_object_is_found_and_named(restore_fails, tamper) -> None:
    tamper("large", lambda _: None)
    restore_fails(IntegrityError, r"the data of public\.large .* is missing")


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


def pg_restore_pids(processes: Callable[[], list[int]]) -> list[int]:
    return sorted(p for p in processes() if Path(f"/proc/{p}/comm").read_text().strip() == "pg_restore")


@pytest.fixture
def slow_bodies(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Functions to call, once, when data has begun to flow; each body is slow."""
    actions: list[Callable[[], object]] = []
    read = StreamingBody.read

    def slow(self: StreamingBody, amt: int | None = None) -> bytes:
        if amt is not None and amt > 100_000:
            time.sleep(0.1)
            if actions:
                actions.pop()()
            return read(self, 100_000)
        return read(self, amt)

    monkeypatch.setattr(StreamingBody, "read", slow)
    return actions


def test_a_pg_restore_that_is_killed_fails_the_task(restore_fails, processes, slow_bodies) -> None:
    slow_bodies.append(lambda: os.kill(pg_restore_pids(processes)[0], signal.SIGKILL))
    # toc.dat's pack is fetched before pg_restore is there; begin with the large table.
    slow_bodies.append(lambda: None)
    slow_bodies.append(lambda: None)
    restore_fails(ClientProgramError, "pg_restore was killed by signal 9", tables=["large"])


def test_a_server_that_ends_the_sessions_fails_the_task(source: Cluster, restore_fails, slow_bodies) -> None:
    slow_bodies.append(
        lambda: source.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pg_restore'"
        )
    )
    slow_bodies.append(lambda: None)
    slow_bodies.append(lambda: None)
    restore_fails(ClientProgramError, "pg_restore exited with status 1", tables=["large"])


def test_a_restore_that_times_out_ends_and_leaves_no_process(restore_fails, processes, slow_bodies) -> None:
    with timeout(3):
        restore_fails(AirflowTaskTimeout, "")
    assert processes() == []


def test_an_error_of_pg_restore_fails_the_task_with_its_words(
    source: Cluster, backup: dict, restore, new_database
) -> None:
    # An index of the same name as a table is no user object of the backup's, but in its way.
    target = new_database(source, "create table public.blocker (i int); create index large on blocker (i)")
    with pytest.raises(
        ClientProgramError, match=r'(?s)pg_restore exited with status 1.*relation "large" already exists'
    ):
        restore(source, target, backup=backup["uri"], if_exists="clean")


def only_client(connections, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    connections.set_option("client_path", str(cluster.pg_bin))
    monkeypatch.setattr(clients, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
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


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
def test_that_one_error_is_tolerated_and_no_other(
    source: Cluster, pg18: Cluster, connections, back_up, restore, new_database, monkeypatch
) -> None:
    only_client(connections, monkeypatch, pg18)
    backup = back_up(source, DATABASE)
    target = new_database(source, "create table public.blocker (i int); create index large on blocker (i)")
    with pytest.raises(ClientProgramError, match=r'relation "large" already exists'):
        restore(source, target, backup=backup["uri"], if_exists="clean")


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
def test_a_restore_stops_when_it_is_told_to(
    source: Cluster, backup: dict, connections, spool_dir: Path, new_name, slow_bodies
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
    slow_bodies.append(task.on_kill)
    slow_bodies.append(functools.partial(int, "0"))
    with pytest.raises(Exception, match="the restore was stopped"):
        task.execute({})
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        source.connect(target)
