"""A verification tells one of three things, each for the right reason, records it, and leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pyrage
import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowTaskTimeout
from botocore.exceptions import EndpointConnectionError

from airflow_pg_s3.core.errors import Cancelled, StorageError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.repository.verification_record import Evidence, Verification, read_evidence
from airflow_pg_s3.core.s3 import download
from airflow_pg_s3.core.verify import restore_test
from airflow_pg_s3.core.verify import user_checks as checks_module
from airflow_pg_s3.core.workspace import resources
from airflow_pg_s3.core.workspace.janitor import processes_of
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.databases import create_hard_roles
from testkit.postgres import Cluster, installations
from testkit.s3 import S3Server
from tests.conftest import MAJORS
from tests.integration.conftest import only_on
from tests.support.sampling import combine, sample

DATABASE = "to verify"
FILL = """
create table large as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, 60000) as i;
create table small (i int primary key, t text);
insert into small select i, 'row ' || i from generate_series(1, 9) i;
create sequence counter; select setval('counter', 41);
select lo_from_bytea(4711, 'large object');
"""
THROWAWAY = r"throwaway PostgreSQL \d+\.\d+ on the worker"


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
def operator(connections, spool_dir: Path) -> Callable[..., PgS3VerifyOperator]:
    """(backup=URI, on=a cluster to restore into, **arguments) → the operator."""

    def make(on: Cluster | None = None, **arguments: object) -> PgS3VerifyOperator:
        if on is not None:
            connections.set("pg_scratch", on.airflow_connection("postgres"))
            arguments["postgres_conn_id"] = "pg_scratch"
        defaults = {"task_id": "verify", "aws_conn_id": "aws", "spool_dir": str(spool_dir)}
        return PgS3VerifyOperator(**defaults | arguments)

    return make


@pytest.fixture
def verify(operator) -> Callable[..., dict]:
    """The same, executed: what the task returns."""
    return lambda **arguments: operator(**arguments).execute(context={})


@pytest.fixture
def evidence_of(s3: S3Server, bucket: str) -> Callable[[dict], Evidence | None]:
    """(what the backup task returned) → all that is recorded of it."""
    return lambda made: read_evidence(s3.client(), bucket, read_manifest(s3.client(), made["uri"]))


@pytest.fixture
def edit_object(s3: S3Server, bucket: str, backup: dict, object_of) -> Callable[..., str]:
    """(name of a table, function of bytes) → changes the object that holds the table's data; its key."""

    def change(table: str, edit: Callable[[bytes], bytes | None]) -> str:
        key = object_of(backup, table)
        client = s3.client()
        edited = edit(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        if edited is None:
            client.delete_object(Bucket=bucket, Key=key)
        else:
            client.put_object(Bucket=bucket, Key=key, Body=edited)
        return key.removeprefix(f"{backup['key'].rpartition('/')[0]}/")

    return change


def flip_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def scratch_databases(cluster: Cluster) -> list[str]:
    return cluster.psql("select datname from pg_database where datname like '%__verify_%'").split("\n")[:-1]


def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


# -- verified -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hammered(cluster: Cluster, database: str) -> Iterator[None]:
    """Clients that insert, update and delete all the time; they have begun when the block does."""
    stop, begun = threading.Event(), threading.Barrier(4)

    def write(number: int) -> None:
        with cluster.connect(database) as connection:
            for turn in range(10**9):
                connection.execute(
                    "insert into hammered (writer, t) select %s, md5(i::text) from generate_series(1, 50) i",
                    [number],
                )
                connection.execute("update hammered set t = t || 'x' where writer = %s and n %% 7 = %s",
                                   [number, turn % 7])  # fmt: skip
                connection.execute("delete from hammered where writer = %s and n %% 3 = %s", [number, turn % 3])
                if turn == 0:
                    begun.wait()
                if stop.is_set():
                    return

    threads = [threading.Thread(target=write, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("source_major", "target_major", "s3", "throwaway", "encrypted"),
    sample(
        [
            (15, 15, "moto", True, False),
            (16, 16, "moto", True, True),
            (16, 18, "ceph", False, False),
            (18, 18, "moto", False, False),
        ],
        1,
        "hard database",
    ),
    indirect=["s3"],
)
def test_the_hard_database_is_verified_while_others_write_to_the_source(
    cluster_of: Callable[[int], Cluster],
    source_major: int,
    target_major: int,
    throwaway: bool,
    encrypted: bool,
    hard_database,
    portable_hard_database,
    new_name,
    connections,
    back_up,
    verify,
    evidence_of,
    new_identity,
):
    source, target = cluster_of(source_major), cluster_of(target_major)
    template = (hard_database if source is target else portable_hard_database)(source)
    database = new_name(source, "hammered hard")
    source.create_database(database, template=template)
    source.psql("create table hammered (n serial primary key, writer int, t text)", database)
    with hammered(source, database):
        made = back_up(source, database, jobs=4, age_recipients=[new_identity] if encrypted else [])
    create_hard_roles(target)
    done = verify(
        backup=made["uri"],
        on=None if throwaway else target,
        jobs=4,
        age_identity_conn_id="age" if encrypted else None,
        checks=["select count(*) > 0 from hammered"],
    )
    assert (done["outcome"], done["tables"], done["rows"]) == ("verified", made["tables"], made["rows"])
    (found,) = evidence_of(made).verifications
    assert (found.outcome, found.differences, found.reason) == ("verified", [], None)
    assert found.server_version.startswith(str(target_major))
    assert all(table.matches for table in found.tables)
    assert scratch_databases(target) == []


@pytest.fixture
def new_identity(connections) -> str:
    """The recipient of the identity that the connection `age` holds."""
    identity = pyrage.x25519.Identity.generate()
    connections.set("age", json.dumps({"conn_type": "generic", "password": str(identity)}))
    return str(identity.to_public())


@only_on("moto")
def test_the_evidence_says_what_where_when_and_how_long(
    source: Cluster, backup: dict, verify, evidence_of, s3: S3Server, bucket: str, spool_dir: Path
):
    done = verify(backup=backup["uri"], checks=["select count(*) = 9 from small"])
    assert set(done) == {
        "outcome", "uri", "backup_id", "database", "level", "tables", "rows", "duration_seconds",
        "restore_seconds", "compare_seconds", "evidence", "warnings",
    }  # fmt: skip
    assert (done["outcome"], done["uri"], done["database"]) == ("verified", backup["uri"], DATABASE)
    assert done["evidence"] == backup["uri"].replace(".json", ".verified.json")
    assert 0 < done["restore_seconds"] < done["duration_seconds"]
    evidence = evidence_of(backup)
    (found,) = evidence.verifications
    assert evidence.is_verified
    stored = read_manifest(s3.client(), backup["uri"])
    assert evidence.manifest_sha256 == stored.sha256
    assert evidence.stored_bytes == stored.manifest.stored_bytes == backup["stored_bytes"]
    assert evidence.new_stored_bytes == backup["new_stored_bytes"] > 0
    assert (found.level, found.compare_seconds) == ("restore", done["compare_seconds"])
    assert re.fullmatch(THROWAWAY, found.where)
    assert found.server_version.split(".")[0] == found.pg_restore_version.split(".")[0] == "16"
    assert sorted((t.schema_name, t.name, t.rows_expected, t.rows_found, t.matches) for t in found.tables) == [
        ("public", "large", 60000, 60000, True),
        ("public", "small", 9, 9, True),
    ]
    assert [(check.passed, check.detail) for check in found.checks] == [(True, "returned true")]


@only_on("moto")
def test_a_scratch_database_on_a_server_is_like_the_source_and_dropped_with_its_subscription(
    pg18: Cluster, new_database, back_up, verify, evidence_of, monkeypatch
):
    database = new_database(
        pg18,
        "create table t as select 1 as i; create subscription s connection 'host=nowhere' publication p"
        " with (connect = false, slot_name = 'precious')",
        name="subscriber",
        encoding="LATIN1",
        locale="C",
        template="template0",
    )
    try:
        made = back_up(pg18, database)
        seen = {}
        real = restore_test.compare

        def look(archive, restored, **arguments):
            with restored.params.connect() as connection:
                seen["encoding"] = connection.execute("show server_encoding").fetchone()[0]
                seen["subscriptions"] = connection.execute("select count(*) from pg_subscription").fetchone()[0]
            return real(archive, restored, **arguments)

        monkeypatch.setattr(restore_test, "compare", look)
        done = verify(backup=made["uri"].rpartition("/")[0] + "/latest", on=pg18)
        assert (done["outcome"], done["uri"]) == ("verified", made["uri"])
        assert seen["encoding"] == "LATIN1"
        assert seen["subscriptions"] == 2
        assert scratch_databases(pg18) == []
        (found,) = evidence_of(made).verifications
        assert re.fullmatch(rf"postgres@127\.0\.0\.1:{pg18.port}/{database}__verify_[0-9a-f]{{6}}", found.where)
        assert pg18.password not in found.model_dump_json()
    finally:
        pg18.psql("alter subscription s disable; alter subscription s set (slot_name = none); drop subscription s",
                  database)  # fmt: skip


@only_on("moto")
def test_roles_and_tablespaces_are_proven_on_a_throwaway_server_and_left_out_where_they_are_missing(
    pg16: Cluster, pg18: Cluster, new_database, back_up, verify, tmp_path: Path
):
    database = new_database(pg16, name="owned")
    with pg16.connect(database) as connection:
        connection.execute("create role only_here nologin")
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute("create tablespace fast location ''")
    try:
        pg16.psql("create table t (i int) tablespace fast; alter table t owner to only_here;"
                  "grant select on t to pg_monitor", database)  # fmt: skip
        made = back_up(pg16, database)
        assert verify(backup=made["uri"])["warnings"] == []
        (warning,) = verify(backup=made["uri"], on=pg18)["warnings"]
        assert warning.startswith("owners, privileges and tablespaces were neither restored nor compared")
        assert "only_here" in warning
    finally:
        pg16.drop_database(database)
        pg16.psql("drop role only_here")
        pg16.psql("drop tablespace fast")


@only_on("moto")
def test_a_source_locale_that_the_worker_does_not_know_does_not_keep_it_from_verifying(
    backup: dict, verify, monkeypatch
):
    class Elsewhere(restore_test.ScratchDatabase):
        def __init__(self, server, database, like, **arguments):
            super().__init__(server, database, like.model_copy(update={"collate": "xx_XX.utf8"}), **arguments)

    monkeypatch.setattr(restore_test, "ScratchDatabase", Elsewhere)
    (warning,) = verify(backup=backup["uri"])["warnings"]
    assert "locale C" in warning
    assert "xx_XX.utf8" in warning


# -- failed -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tamper(monkeypatch) -> Callable[[str], None]:
    """(commands) → runs them in the restored database, between restore and comparison."""

    def between(commands: str) -> None:
        real = restore_test.compare

        def tampered(archive, restored, **arguments):
            with restored.params.connect() as connection:
                connection.execute(commands)
            return real(archive, restored, **arguments)

        monkeypatch.setattr(restore_test, "compare", tampered)

    return between


@only_on("moto")
def test_what_differs_is_named_in_the_error_and_in_the_evidence(
    source: Cluster, backup: dict, verify, evidence_of, tamper
):
    tamper("update public.large set noise = 'x' where i = 30000; delete from public.small where i = 9;"
           "select setval('public.counter', 42)")  # fmt: skip
    with pytest.raises(AirflowFailException, match=r"FAILED verification: ") as failure:
        verify(backup=backup["uri"], on=source, locate_differences=True)
    assert "\n" not in str(failure.value)
    assert "public.large" in str(failure.value)
    assert "public.small" in str(failure.value)
    (found,) = evidence_of(backup).verifications
    assert found.outcome == "failed"
    assert {(d.kind, d.name) for d in found.differences} == {
        ("table", "public.large"), ("table", "public.small"), ("sequence", "public.counter"),
    }  # fmt: skip
    results = {table.name: table for table in found.tables}
    # An UPDATE moves its row to the end.
    assert (results["large"].rows_found, results["large"].first_difference) == (60000, 30000)
    assert (results["small"].rows_found, results["small"].rows_expected) == (8, 9)
    assert not evidence_of(backup).is_verified
    assert scratch_databases(source) == []


DAMAGE = {
    "flipped": (flip_middle, r"the data of public\.large"),
    "cut short": (
        lambda data: data[: len(data) // 2],
        r"the data of public\.large .* has \d+ bytes, but at least \d+ were stored",
    ),
    "missing": (lambda data: None, r"the data of public\.large .* is missing"),
}


@pytest.mark.parametrize(
    ("damage", "level"),
    sample(combine(DAMAGE, ["restore", "checksum"], name="damaged object"), 2, "damaged object"),
)
@only_on("moto")
def test_a_damaged_object_is_a_failure_that_names_it(
    backup: dict, verify, evidence_of, edit_object, level: str, damage: str
):
    edit, message = DAMAGE[damage]
    edit_object("large", edit)
    with pytest.raises(AirflowFailException, match=f"FAILED verification: object .*{message}"):
        verify(backup=backup["uri"], level=level)
    (found,) = evidence_of(backup).verifications
    assert (found.outcome, found.level) == ("failed", level)
    assert re.search(message, found.differences[0].detail)


@only_on("moto")
def test_checksums_name_everything_that_is_damaged_and_prove_the_rest(
    backup: dict, verify, evidence_of, edit_object
):
    large, pack = edit_object("large", flip_middle), edit_object("small", lambda data: data[:-1] + b"?")
    with pytest.raises(AirflowFailException):
        verify(backup=backup["uri"], level="checksum")
    (found,) = evidence_of(backup).verifications
    assert {difference.name for difference in found.differences} == {large, pack}


@only_on("moto")
def test_what_pg_restore_cannot_restore_is_a_failure_with_its_words(
    source: Cluster, new_database, back_up, verify, evidence_of
):
    # pg_dump makes such a backup without complaint; nobody knows before they restore it.
    database = new_database(
        source,
        "create table t as select 1 as i; alter table t add constraint never check (i > 5) not valid",
        name="unrestorable",
    )
    source.psql("update pg_constraint set convalidated = true where conname = 'never'", database)
    made = back_up(source, database)
    with pytest.raises(AirflowFailException, match=r'FAILED verification: restore pg_restore: .*"never"'):
        verify(backup=made["uri"])
    (found,) = evidence_of(made).verifications
    assert [difference.kind for difference in found.differences] == ["restore"]
    assert re.fullmatch(THROWAWAY, found.where)


UNTRUE = {
    "select count(*) > 10 from small": "returned false",
    "select null::bool": "returned null",
    "select max(i) from small where false": "returned null",
    "select true where false": "returned no row, not a single value",
    "select i < 9 from small": "returned more than one row, not a single value",
    "select 1 / (count(*) - 9) > 0 from small": "division by zero",
}
MISTAKEN = {
    "select true from small": "returned more than one row, not a single value",
    "select true, true": "returned 2 columns, not a single value",
    "select count(*) from small": "returned 9, no boolean",
    "select * from no_such_table": 'relation "no_such_table" does not exist',
    "select no_such_schema.f()": 'schema "no_such_schema" does not exist',
    "select count(*) > 0 form small": "syntax error at or near",
    "insert into small values (10) returning true": "read-only transaction",
    "select true; drop table small": "cannot insert multiple commands",
    "set work_mem = '1MB'": "is no query",
}
TRUE = {"select count(*) = 9 from small": "returned true"}
ONE_BOOLEAN = r"a check must return one boolean, such as select count\(\*\) > 0 from orders: "


def assert_recorded(found: Verification, said: dict[str, str]) -> None:
    assert [check.sql for check in found.checks] == list(said)
    for check in found.checks:
        assert said[check.sql] in check.detail
        assert check.passed == (check.detail == "returned true")
    assert all(table.matches for table in found.tables)


@only_on("moto")
def test_a_check_fails_on_what_is_not_true_even_beside_mistaken_ones(backup: dict, verify, evidence_of):
    said = MISTAKEN | TRUE | UNTRUE
    with pytest.raises(AirflowFailException, match=r"FAILED verification: check select count\(\*\) > 10 .* false"):
        verify(backup=backup["uri"], checks=list(said))
    (found,) = evidence_of(backup).verifications
    assert_recorded(found, said)
    assert [(each.kind, each.name) for each in found.differences] == [("check", sql) for sql in UNTRUE]


@only_on("moto")
def test_mistaken_checks_tell_nothing_of_the_backup_and_say_what_to_write(backup: dict, verify, evidence_of):
    said = MISTAKEN | TRUE
    with pytest.raises(AirflowFailException, match=f"could not verify: {ONE_BOOLEAN}") as caught:
        verify(backup=backup["uri"], checks=list(said))
    (found,) = evidence_of(backup).verifications
    assert_recorded(found, said)
    assert (found.outcome, found.differences) == ("could not verify", [])
    for sql, detail in MISTAKEN.items():
        assert re.search(f"{re.escape(sql)}: .*{re.escape(detail)}", str(caught.value))
        assert sql in found.reason
    assert "count(*) = 9" not in found.reason


@only_on("moto")
def test_a_mistaken_check_hides_no_difference(backup: dict, verify, evidence_of, monkeypatch):
    real = restore_test.compare

    def compare(archive, restored, **arguments):
        with restored.params.connect() as connection:
            connection.execute("update public.small set t = 'changed' where i = 5")
        return real(archive, restored, **arguments)

    monkeypatch.setattr(restore_test, "compare", compare)
    with pytest.raises(AirflowFailException, match=r"FAILED verification: table public\.small: "):
        verify(backup=backup["uri"], checks=["select count(*) from small"])
    (found,) = evidence_of(backup).verifications
    assert found.outcome == "failed"
    (warning,) = found.warnings
    assert re.search(f"not completed: {ONE_BOOLEAN}.*small: returned 9, no boolean", warning)


# -- could not verify ---------------------------------------------------------------------------------------------


@pytest.fixture
def could_not(verify, backup: dict, evidence_of) -> Callable[..., None]:
    """(error, message, **arguments) → verifies, and makes sure that nothing could be told, for that reason."""

    def check(error: type[Exception], message: str, **arguments: object) -> None:
        with pytest.raises(error, match=f"could not verify: .*{message}") as caught:
            verify(**{"backup": backup["uri"]} | arguments)
        assert type(caught.value) is error
        newest = evidence_of(backup).verifications[0]
        assert newest.outcome == "could not verify"
        assert re.search(message, newest.reason)
        assert newest.differences == []

    return check


@only_on("moto")
def test_a_server_that_does_not_answer_is_tried_again(could_not, connections, backup: dict):
    connections.set("pg_scratch", json.dumps({"conn_type": "postgres", "host": "127.0.0.1", "port": 1,
                                              "login": "x", "schema": "x"}))  # fmt: skip
    could_not(
        AirflowException, "cannot connect to .*Connection refused; check host", postgres_conn_id="pg_scratch"
    )


@only_on("moto")
def test_a_wrong_password_and_a_role_without_rights_are_for_somebody_to_mend(
    could_not, connections, source: Cluster
):
    source.psql("create role modest login password 'x y z'")
    try:
        for password, message in (
            ("wrong", "password authentication failed"),
            ("x y z", r'ALTER ROLE "modest" CREATEDB\); or leave postgres_conn_id out: a throwaway'),
        ):
            modest = json.loads(source.airflow_connection("postgres")) | {"login": "modest", "password": password}
            connections.set("pg_scratch", json.dumps(modest))
            could_not(AirflowFailException, message, postgres_conn_id="pg_scratch")
    finally:
        source.psql("drop role modest")


@only_on("moto")
def test_a_server_that_ends_the_sessions_is_no_fault_of_the_backup(could_not, source: Cluster, monkeypatch):
    ended = []
    fetch = download.Downloader._fetch_once

    def end_sessions_first(self, stored, *arguments):
        # A large member is asked for when its COPY has begun.
        if re.search(r"/\d{6}\.zst$", stored.key) and not ended:
            ended.append(
                source.psql(
                    "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity"
                    " where query like 'COPY%' and datname like '%__verify_%'"
                ).strip()
            )
        return fetch(self, stored, *arguments)

    monkeypatch.setattr(download.Downloader, "_fetch_once", end_sessions_first)
    message = "the rows of .* could not be loaded.*(terminating connection|server closed the connection)"
    could_not(AirflowException, message, on=source)
    assert int(ended[0]) > 0
    assert scratch_databases(source) == []


@only_on("moto")
def test_an_s3_that_fails_is_never_a_failed_backup(
    could_not, backup: dict, manifest_of, monkeypatch: pytest.MonkeyPatch
):
    def unreachable(self, stored, *arguments):
        if "pack" not in stored.key:
            raise EndpointConnectionError(endpoint_url="http://s3.example")
        return fetch(self, stored, *arguments)

    fetch = download.Downloader._fetch_once
    monkeypatch.setattr(download.Downloader, "_fetch_once", unreachable)
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)
    for level in ("restore", "checksum"):
        could_not(AirflowException, "Could not connect to the endpoint", level=level)


@only_on("moto")
def test_the_outcome_stands_though_s3_refuses_to_record_it(backup: dict, verify, evidence_of, monkeypatch):
    def refuse(*_):
        raise StorageError("no")

    monkeypatch.setattr("airflow_pg_s3.core.verify.verify.record", refuse)
    assert verify(backup=backup["uri"], level="checksum")["evidence"] is None
    assert evidence_of(backup) is None


@only_on("moto")
def test_a_missing_or_wrong_identity_says_nothing_of_the_backup(
    source: Cluster, back_up, verify, evidence_of, connections, new_identity
):
    made = back_up(source, DATABASE, age_recipients=[new_identity])
    stranger = json.dumps({"conn_type": "generic", "password": str(pyrage.x25519.Identity.generate())})
    connections.set("stranger", stranger)
    for level in ("restore", "checksum"):
        for conn_id, message in ((None, "is encrypted with age"), ("stranger", "none of the age identities")):
            with pytest.raises(AirflowFailException, match=f"could not verify: .*{message}"):
                verify(backup=made["uri"], level=level, age_identity_conn_id=conn_id)
            assert evidence_of(made).verifications[0].outcome == "could not verify"
        assert verify(backup=made["uri"], level=level, age_identity_conn_id="age")["outcome"] == "verified"


@only_on("moto")
def test_a_worker_without_server_programs_or_disk_says_so(could_not, connections, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as narrow:
        narrow.setattr(resources.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
        could_not(AirflowFailException, r"1\.0 MB free, but .* takes 1\.\d GB")
    only_clients = tmp_path / "bin"
    only_clients.mkdir()
    for program in ("pg_dump", "pg_restore"):
        (only_clients / program).symlink_to(installations()[18] / program)
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    connections.set_option("client_path", str(only_clients))
    could_not(AirflowFailException, r"client programs only.*postgresql-16.*clients.*client_path")


@only_on("moto")
def test_a_missing_extension_is_named(
    cluster_of, pg16_with_vector, new_database, back_up, verify, evidence_of, connections
):
    pg15 = cluster_of(15)
    available = "select count(*) from pg_available_extensions where name = 'dblink'"
    database = new_database(pg15, name="extended")
    with pg15.connect(database) as connection:
        if not connection.execute(available).fetchone()[0]:
            pytest.skip("this PostgreSQL 15 has no dblink")
        connection.execute("create extension dblink")
    made = back_up(pg15, database)
    with pytest.raises(AirflowFailException, match=r"could not verify: .*dblink"):
        verify(backup=made["uri"], on=pg16_with_vector)  # has none of contrib's
    assert evidence_of(made).verifications[0].outcome == "could not verify"


# -- the order of rows --------------------------------------------------------------------------------------------

ROWS_OF_MANY_SIZES = "select i, repeat('x', (hashint4(i) & 1023)) as filler from generate_series(1, 20000) as i"


@only_on("moto")
@pytest.mark.parametrize("major", sample(MAJORS, 1, "one job is enough"))
def test_one_job_is_enough_to_verify_rows_of_many_sizes(cluster_of, new_database, back_up, verify, major: int):
    cluster = cluster_of(major)
    database = new_database(cluster, f"create table t as {ROWS_OF_MANY_SIZES}")
    assert verify(backup=back_up(cluster, database)["uri"], jobs=1)["outcome"] == "verified"


@only_on("moto")
def test_rows_of_an_extensions_table_may_come_back_in_another_order(
    pg18: Cluster, new_database, back_up, verify, evidence_of, tmp_path: Path
):
    # pg_restore loads it behind what the extension itself puts there.
    extension = tmp_path / "extension"
    extension.mkdir()
    (extension / "settings.control").write_text("default_version = '1'\nrelocatable = true\n")
    (extension / "settings--1.sql").write_text(
        "create table setting (i int, filler text);\nselect pg_extension_config_dump('setting', '');\n"
    )
    for path in (*tmp_path.parents, tmp_path, extension):
        if path != Path("/") and path.stat().st_uid == os.getuid() and os.getuid() == 0:
            path.chmod(path.stat().st_mode | 0o055)
    pg18.psql(f"alter role {pg18.user} set extension_control_path = '$system:{tmp_path}'")
    try:
        database = new_database(pg18, "create extension settings")
        with pg18.connect(database) as connection, connection.transaction(), connection.cursor() as cursor:
            # So it is filled page by page, which the restore does not do.
            cursor.execute("truncate setting")
            rows = pg18.psql(ROWS_OF_MANY_SIZES, database)
            with cursor.copy("copy setting from stdin (delimiter '|')") as copy:
                copy.write(rows)
        made = back_up(pg18, database)
        done = verify(backup=made["uri"], on=pg18)
    finally:
        pg18.psql(f"alter role {pg18.user} reset extension_control_path")
    assert (done["outcome"], done["rows"]) == ("verified", 20000)


# -- what makes no sense ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "full"}, "level must be 'restore' or 'checksum', not 'full'"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"checks": "select true"}, "checks must be a list of strings"),
        ({"level": "checksum", "checks": ["select true"]}, "restores nothing: leave out .*checks"),
        ({"backup": "s3://bucket/some/dump.tar.gz"}, "another tool's archive.*PgS3RestoreOperator"),
        ({"backup": "s3://no-such-bucket-here/x.json"}, "the bucket 'no-such-bucket-here' does not exist"),
        ({"age_identity_conn_id": "no_such"}, "connection 'no_such' does not exist"),
        ({"postgres_conn_id": "no_such"}, "connection 'no_such' does not exist"),
    ],
)
@only_on("moto")
def test_a_request_that_cannot_work_fails_for_good_and_records_nothing(
    backup: dict, verify, evidence_of, arguments: dict, message: str
):
    with pytest.raises(AirflowFailException, match=message):
        verify(**{"backup": backup["uri"]} | arguments)
    assert evidence_of(backup) is None


# -- checksums need no PostgreSQL ---------------------------------------------------------------------------------


@only_on("moto")
def test_checksums_are_compared_without_any_program_of_postgresql(
    backup: dict, verify, evidence_of, connections, monkeypatch
):
    connections.set_option("client_path", "")
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    done = verify(backup=backup["uri"], level="checksum")
    assert (done["outcome"], done["tables"], done["rows"]) == ("verified", 2, 60009)
    assert (done["restore_seconds"], done["warnings"]) == (None, [])
    assert not evidence_of(backup).is_verified
    (recorded,) = evidence_of(backup).verifications
    assert (recorded.level, recorded.pg_restore_version, recorded.server_version) == ("checksum", None, None)


# -- nothing stays ------------------------------------------------------------------------------------------------

TASK = """
import logging, os, sys, threading
sys.path[:0] = {paths!r}
from airflow_pg_s3.core.verify import restore_test
def hold(*arguments, **keywords):
    print("restored", flush=True)
    sys.stdin.read()
restore_test.compare = hold
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
PgS3VerifyOperator(task_id="v", backup=sys.argv[1], aws_conn_id="aws", spool_dir=sys.argv[2],
                   postgres_conn_id=sys.argv[3] or None).execute({{}})
"""


@pytest.mark.parametrize("where", sample(["throwaway", "server"], 1, "killed verification"))
@only_on("moto")
def test_after_a_sigkill_no_process_and_no_folder_is_left_and_no_database_after_the_next_run(
    source: Cluster, backup: dict, operator, verify, spool_dir: Path, where: str
):
    operator(backup=backup["uri"], on=source)  # for its connection
    root = Path(__file__).parents[3]
    script = TASK.format(paths=[str(root / "provider"), str(root)])
    conn_id = "pg_scratch" if where == "server" else ""
    with subprocess.Popen(
        [sys.executable, "-c", script, backup["uri"], str(spool_dir), conn_id],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as task:  # fmt: skip
        try:
            assert any("restored" in line for line in task.stdout)
            folders = [str(folder) for folder in spool_dir.iterdir()]
            pids = [pid for folder in folders for pid in processes_of(folder)]
            assert len(pids) > 3 if where == "throwaway" else folders
            assert len(scratch_databases(source)) == (where == "server")
        finally:
            os.killpg(task.pid, signal.SIGKILL)
    assert until(lambda: not list(spool_dir.iterdir()))
    assert [pid for folder in folders for pid in processes_of(folder)] == []
    locks = "select count(*) from pg_locks where locktype = 'advisory'"
    assert until(lambda: source.psql(locks).strip() == "0")  # the server has noticed
    verify(backup=backup["uri"], on=source)
    assert scratch_databases(source) == []


@pytest.mark.parametrize("error", sample([AirflowTaskTimeout, KeyboardInterrupt], 1, "interruption"))
@only_on("moto")
def test_an_interruption_leaves_neither_database_nor_server_nor_record(
    source: Cluster, backup: dict, verify, evidence_of, monkeypatch, spool_dir: Path, error: type[BaseException]
):
    def interrupt(*_, **__):
        raise error

    monkeypatch.setattr(restore_test, "compare", interrupt)
    for on in (None, source):
        with pytest.raises(error):
            verify(backup=backup["uri"], on=on)
        assert list(spool_dir.iterdir()) == []
    assert scratch_databases(source) == []
    assert evidence_of(backup) is None


@only_on("moto")
def test_a_verification_stops_when_it_is_told_to_even_in_a_check(
    source: Cluster, backup: dict, operator, evidence_of, monkeypatch
):
    task = operator(backup=backup["uri"], on=source, checks=["select pg_sleep(3600) is null"])
    real = checks_module._run

    def then_stop(query, connection):
        task.on_kill()
        return real(query, connection)

    monkeypatch.setattr(checks_module, "_run", then_stop)
    with pytest.raises(Cancelled):
        task.execute({})
    assert scratch_databases(source) == []
    assert evidence_of(backup) is None


@only_on("best")
def test_another_verification_at_work_on_the_same_server_is_left_alone(
    source: Cluster, backup: dict, verify, operator, monkeypatch, evidence_of
):
    real = restore_test.compare
    nested = []

    def another_meanwhile(archive, restored, **arguments):
        if not nested:
            nested.append(restored.params.database)
            assert verify(backup=backup["uri"], on=source)["outcome"] == "verified"
            assert scratch_databases(source) == [restored.params.database]
        return real(archive, restored, **arguments)

    monkeypatch.setattr(restore_test, "compare", another_meanwhile)
    assert verify(backup=backup["uri"], on=source)["outcome"] == "verified"
    assert len(evidence_of(backup).verifications) == 2
    assert scratch_databases(source) == []
