"""What a backup says while it works: how much is ahead, which table it reads, and who holds what it waits for."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyrage
import pytest

from airflow_pg_s3.core import reporting
from airflow_pg_s3.core.backup.backup import BackupResult, back_up
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.errors import Cancelled, ClientProgramError
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.repository.repository import Repository
from testkit.postgres import Cluster, newest
from testkit.s3 import S3Server
from tests.integration.conftest import only_on

pytestmark = only_on("moto")

MIB = 1 << 20
TABLES = """
create table kinds as select i, i::bigint * 1000003 as big, now() + i * interval '1 s' as at,
    gen_random_uuid() as id,
    i % 2 = 0 as even, case when i % 3 = 0 then md5(i::text) end as text, sha256(i::text::bytea) as bytes
    from generate_series(1, 20000) i;
create table locked (i int);
analyze
"""
LOCK = "begin; lock table locked in access exclusive mode"
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


class Log:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, *args: object) -> None:
        self.lines.append(message % args if args else message)

    warning = info

    def wait_for(self, text: str) -> str:
        """The line of progress that matches; it comes within a minute."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in self.lines:
                if line.startswith("read ") and re.search(text, line):
                    return line
            time.sleep(0.01)
        raise AssertionError(f"nothing said {text}: {self.lines}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(installation=newest(16), settings={"max_prepared_transactions": 2}) as cluster:
        cluster.create_database("progress")
        cluster.psql(TABLES, "progress")
        cluster.psql("create role reader login password 'reader' in role pg_read_all_data", "progress")
        yield cluster


@pytest.fixture
def run(
    cluster: Cluster, s3: S3Server, bucket: str, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., BackupResult]:
    """(log, user=…, client=…, cancel=…, place=…, **arguments of the request) → the backup, which speaks often."""
    monkeypatch.setattr(reporting, "INTERVAL_SECONDS", 0.2)

    def back_up_one(
        log: Log, *, user: str = "postgres", client=None, cancel=None, place: str = "p", **arguments
    ) -> BackupResult:
        password = cluster.password if user == "postgres" else user
        keywords = cluster.keywords | {"user": user, "password": password}
        request = BackupRequest(
            source=parameters(database="progress", keywords=keywords),
            spool_dir=str(spool_dir),
            client_path=[str(cluster.pg_bin)],
            **arguments,
        )
        repository = Repository(client or s3.client(), f"s3://{bucket}/{place}")
        return back_up(request, repository, cancel=cancel or threading.Event(), log=log)

    return back_up_one


@pytest.fixture
def waiting(run) -> Callable[..., contextlib.AbstractContextManager[Log]]:
    """(**arguments) → what a backup says that waits for a lock while the block lasts, and is stopped then."""

    @contextlib.contextmanager
    def start(**arguments: object) -> Iterator[Log]:
        log, cancel = Log(), threading.Event()

        def stopped() -> None:
            with contextlib.suppress(Cancelled):
                run(log, cancel=cancel, **arguments)

        thread = threading.Thread(target=stopped)
        thread.start()
        try:
            yield log
        finally:
            cancel.set()
            thread.join()

    return start


def session(cluster: Cluster, application: str) -> psycopg.Connection:
    return psycopg.connect(cluster.dsn("progress"), application_name=application, autocommit=True)


def test_whoever_holds_a_lock_that_pg_dump_waits_for_is_named(cluster: Cluster, waiting) -> None:
    with session(cluster, "migration") as holder:
        holder.execute(LOCK)
        with waiting() as log:
            pid = holder.info.backend_pid
            said = log.wait_for("pg_dump waits")
            assert re.search(
                rf"; pg_dump waits for a lock on public\.locked, held by pid {pid} \(postgres, migration, "
                rf"idle in transaction, its transaction began {TIME}\)$",
                said,
            )


def test_whom_the_holder_waits_for_is_named_as_well(cluster: Cluster, waiting) -> None:
    with session(cluster, "report") as reader, session(cluster, "migration") as writer:
        reader.execute("begin; select from locked")
        altering = threading.Thread(target=writer.execute, args=["alter table locked add column j int"])
        altering.start()
        try:
            with waiting() as log:
                said = log.wait_for("migration.*report")
                order = rf"held by pid {writer.info.backend_pid} .*, behind pid {reader.info.backend_pid} "
                assert re.search(order, said)
        finally:
            reader.execute("commit")
            altering.join()


def test_a_prepared_transaction_is_named(cluster: Cluster, waiting) -> None:
    with session(cluster, "two phases") as holder:
        holder.execute(f"{LOCK}; prepare transaction 'forgotten'")
        try:
            with waiting() as log:
                log.wait_for(r"public\.locked, held by a prepared transaction \(see pg_prepared_xacts\)$")
        finally:
            holder.execute("rollback prepared 'forgotten'")


def test_a_user_who_may_not_see_what_others_do_sees_who_they_are(cluster: Cluster, waiting) -> None:
    with session(cluster, "migration") as holder:
        holder.execute(LOCK)
        with waiting(user="reader") as log:
            log.wait_for(rf"held by pid {holder.info.backend_pid} \(postgres, migration\)$")


def test_a_wait_can_be_limited(cluster: Cluster, run) -> None:
    with session(cluster, "migration") as holder:
        holder.execute(LOCK)
        with pytest.raises(ClientProgramError, match=r"statement timeout(.|\n)*LOCK TABLE"):
            run(Log(), pg_dump_options=["--lock-wait-timeout=500ms"])


def expected_bytes(log: Log) -> float | None:
    """What the first line of progress says is ahead."""
    line = next(line for line in log.lines if line.startswith("read "))
    found = re.match(r"read \S+ \w?B of about ([\d.]+) ([kM]B)", line)
    return float(found[1]) * {"kB": 1e3, "MB": 1e6}[found[2]] if found else None


def test_what_is_ahead_is_told_by_statistics_then_by_the_last_backup(cluster: Cluster, run) -> None:
    ahead, made = [], []
    part = ["--exclude-table-data=kinds"]
    # Places of their own: of two backups within a second, either may count as the newest.
    for place, options in (("whole", []), ("whole", []), ("part", part), ("part", part)):
        log = Log()
        with session(cluster, "migration") as holder:
            # Until there is a line.
            holder.execute(LOCK)
            threading.Thread(target=lambda log=log, holder=holder: (log.wait_for("read"), holder.close())).start()
            made.append(run(log, place=place, pg_dump_options=options).manifest.raw_bytes)
        ahead.append(expected_bytes(log))
    assert ahead[0] == pytest.approx(made[0], rel=0.15)
    assert ahead[1] == pytest.approx(made[0], rel=0.02)
    # Nobody knows how much an option leaves out, until it has done so once.
    assert ahead[2] is None
    assert ahead[3] == pytest.approx(made[2], rel=0.02)


def test_the_table_that_is_read_and_the_time_that_is_left_are_told(
    cluster: Cluster, run, s3: S3Server, new_name
) -> None:
    cluster.psql(
        # It hardly compresses, so that runs are uploaded while it is read.
        "create table large as"
        " select (select string_agg(md5(i * 100 + j || ''), '') from generate_series(1, 32) j)"
        " from generate_series(1, 40000) i; analyze large",
        "progress",
    )
    client, log = s3.client(), Log()

    def wait_if_run(request: Any, **_: object) -> None:
        if request.url.endswith(".zst"):
            log.wait_for(left)

    # pg_dump is stopped in the midst of the table: once four runs are on their way, nothing leaves the spool.
    left = (
        r"^read [\d.]+ MB of about \d\d\.\d MB, \d+ s left; .*; at public\.large \(row [\d,]+ of about 40,000\)$"
    )
    client.meta.events.register("before-send.s3.PutObject", wait_if_run)
    run(log, client=client, jobs=1, run_bytes=MIB, spool_limit=16 * MIB)
    cluster.psql("drop table large", "progress")
    log.wait_for(left)


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_the_log_says_to_keep_the_key_elsewhere(run, is_encrypted: bool) -> None:
    log = Log()
    recipients = [str(pyrage.x25519.Identity.generate().to_public())] if is_encrypted else []
    run(log, age_recipients=recipients)
    assert any("committed" in line for line in log.lines)
    said = [
        line for line in log.lines if line.startswith("nothing opens this backup without the age identity: keep")
    ]
    assert len(said) == is_encrypted
    assert all("outside of Airflow" in line and "Fernet key" in line for line in said)
