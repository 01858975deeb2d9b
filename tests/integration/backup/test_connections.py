"""How Airflow's connections reach pg_dump and pg_restore, and that nobody sees the secrets in them."""

import functools
import json
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.postgres.hooks.postgres import PostgresHook
from psycopg import sql

from airflow_pg_s3.hooks import connections as resolving
from airflow_pg_s3.hooks import pg_s3 as hook
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from testkit.postgres import Cluster
from testkit.s3 import S3Server

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

PASSWORDS = {
    "of a conninfo string": """ it's "quoted"  a=b host=evil.example\\\\ """,
    "of a password file": "#a:b:*:c\\:back\\",
    "of a URI": "p@ss/word?x=1&y#100%41%;",
    "of no ASCII": "pässwörd-密码-🔑",
}


@pytest.fixture
def role(pg16: Cluster) -> Iterator[Callable[[str], str]]:
    """(password) → the name of a superuser with it."""
    made = []

    def create(password: str) -> str:
        name = f"role {len(made)}"
        made.append(name)
        with pg16.connect() as connection:
            connection.execute(
                sql.SQL("create role {} superuser login password {}").format(
                    sql.Identifier(name), sql.Literal(password)
                )
            )
        return name

    yield create
    with pg16.connect() as connection:
        for name in made:
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@pytest.fixture
def database(pg16: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg16, "create table t as select i from generate_series(1, 10) as i", name="connections")


@pytest.fixture
def to_and_fro(connections, repository, spool_dir, new_name, pg16) -> Callable[[dict], dict]:
    """(connection as a dict) → what a backup and a restore over it return."""
    from airflow_pg_s3.operators.backup import PgS3BackupOperator
    from airflow_pg_s3.operators.restore import PgS3RestoreOperator

    def run(connection: dict) -> dict:
        connections.set("pg", json.dumps({"conn_type": "postgres"} | connection))
        common = {"postgres_conn_id": "pg", "aws_conn_id": "aws", "spool_dir": str(spool_dir)}
        backup = PgS3BackupOperator(task_id="b", repository=repository, **common).execute({})
        copy = new_name(pg16, "copy")
        restored = PgS3RestoreOperator(task_id="r", backup=backup["uri"], database=copy, **common).execute({})
        assert restored["rows"] == backup["rows"] == 10
        return restored

    return run


@pytest.mark.parametrize("password", PASSWORDS.values(), ids=PASSWORDS.keys())
def test_a_password_of_any_characters_works(pg16: Cluster, role, database: str, to_and_fro, password: str) -> None:
    to_and_fro(
        {"host": pg16.host, "port": pg16.port, "login": role(password), "password": password, "schema": database}
    )


def test_a_wrong_password_is_refused_before_anything_is_touched(
    pg16: Cluster, database: str, connections, back_up, leftovers
) -> None:
    wrong = json.loads(pg16.airflow_connection(database)) | {"password": "not this one"}
    with (
        mock.patch.object(pg16, "airflow_connection", return_value=json.dumps(wrong)),
        pytest.raises(Exception, match="password authentication failed") as caught,
    ):
        back_up(pg16, database)
    assert type(caught.value).__name__ == "AirflowFailException"
    assert "not this one" not in str(caught.value)
    assert leftovers() == []


def test_a_unix_socket_works(pg16: Cluster, database: str, to_and_fro) -> None:
    to_and_fro(
        {
            "host": str(pg16.socket_dir),
            "port": pg16.port,
            "login": pg16.user,
            "password": pg16.password,
            "schema": database,
        }
    )


def test_extras_of_every_kind_reach_libpq(pg16: Cluster, database: str, to_and_fro) -> None:
    to_and_fro(
        {
            "host": pg16.host,
            "port": pg16.port,
            "login": pg16.user,
            "password": pg16.password,
            "schema": database,
            "extra": {
                "sslmode": "prefer",
                "application_name": "extras",
                "connect_timeout": 10,
                # No environment variables exist for these.
                "keepalives": True,
                "keepalives_idle": 30,
                "sslpassword": "not needed here",
                # Not libpq's, but the hook's.
                "cursor": "dictcursor",
                "options": "-c statement_timeout=0",
            },
        }
    )


@pytest.mark.parametrize("several", [False, True], ids=["one host", "several hosts"])
def test_extras_win_over_fields_as_in_the_hook(
    pg15: Cluster, pg16: Cluster, database: str, new_database, connections, repository, manifest_of, several: bool
) -> None:
    there = new_database(pg15, "create table t as select 1 as i", name="extras")
    extra = {**pg15.keywords, "host": "localhost", "port": pg15.port, "dbname": there}
    connection = json.loads(pg16.airflow_connection(database))
    if several:
        # Nobody listens on the first port.
        extra |= {"host": "localhost,127.0.0.1", "port": f"1,{pg15.port}"}
        del connection["port"]
    connections.set("pg", json.dumps(connection | {"extra": extra}))
    with PostgresHook("pg").get_conn() as opened:
        assert opened.execute("select inet_server_port(), current_database()").fetchone() == (pg15.port, there)
    backup = PgS3BackupOperator(
        task_id="b", repository=repository, postgres_conn_id="pg", aws_conn_id="aws"
    ).execute({})
    assert (backup["database"], backup["rows"]) == (there, 1)
    assert manifest_of(backup).server.version_num // 10000 == pg15.major


def test_sslmode_is_honoured(pg16: Cluster, database: str, to_and_fro) -> None:
    # The server has no TLS, so a connection that demands it must fail.
    with pytest.raises(AirflowFailException, match="does not support SSL, but SSL was required; enable it on the"):
        to_and_fro(
            {
                "host": pg16.host,
                "port": pg16.port,
                "login": pg16.user,
                "password": pg16.password,
                "schema": database,
                "extra": {"sslmode": "require"},
            }
        )


def test_an_unknown_extra_is_named(pg16: Cluster, database: str, to_and_fro) -> None:
    with pytest.raises(Exception, match="extra 'sslmod' is no libpq keyword"):
        to_and_fro({"host": pg16.host, "schema": database, "extra": {"sslmod": "require"}})


def test_iam_takes_the_token_of_the_hook(pg16: Cluster, database: str, to_and_fro) -> None:
    with mock.patch.object(PostgresHook, "get_iam_token", return_value=(pg16.user, pg16.password, pg16.port)):
        to_and_fro(
            {"host": pg16.host, "login": "somebody else", "schema": database, "extra": {"iam": True}},
        )


def test_inherited_variables_do_not_lead_elsewhere(
    pg16: Cluster, database: str, back_up, assert_restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGHOST": "192.0.2.1",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGDATABASE": "elsewhere",
        "PGUSER": "nobody",
        "PGPASSWORD": "wrong",
        "PGPASSFILE": "/nonexistent",
        "PGSERVICE": "elsewhere",
        "PGSSLMODE": "verify-full",
        "PGOPTIONS": "-c search_path=elsewhere",
        "PGCLIENTENCODING": "LATIN1",
    }.items():
        monkeypatch.setenv(name, value)
    done = back_up(pg16, database)
    assert done["rows"] == 10
    with monkeypatch.context() as clean:
        for name in [name for name in os.environ if name.startswith("PG") and not name.startswith("PG_S3")]:
            clean.delenv(name)
        assert_restored(pg16, database, pg16, done)


class Spy(threading.Thread):
    """Reads the arguments and environment of every process, and every file of the spool, again and again.

    `has_seen` waits until it has had a good look at a program.
    """

    def __init__(self, spool_dir: Path, secrets: list[bytes]) -> None:
        super().__init__(daemon=True)
        self._spool_dir = spool_dir
        self._secrets = secrets
        self._own = {os.getpid(), os.getppid()}
        self._end = threading.Event()
        self.looks: Counter[str] = Counter()
        self.found: set[str] = set()
        self.modes: set[tuple[str, str]] = set()

    def run(self) -> None:
        while not self._end.wait(0.002):
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit() and int(folder.name) not in self._own:
                    self._look_at(folder)
            for path in self._spool_dir.glob("*/pg*"):
                try:
                    self.modes.add((path.name, oct(path.stat().st_mode & 0o777)))
                    self.modes.add(("workspace", oct(path.parent.stat().st_mode & 0o777)))
                except FileNotFoundError:
                    continue

    def _look_at(self, folder: Path) -> None:
        try:
            text = (folder / "cmdline").read_bytes()
            program = text.split(b"\0")[0].rpartition(b"/")[2].decode()
            if program not in ("pg_dump", "pg_restore"):
                return
            text += (folder / "environ").read_bytes()
        except OSError:
            return
        for secret in self._secrets:
            if secret in text:
                self.found.add(f"{secret!r} in {program}")
        self.looks[program] += 1

    def has_seen(self, program: str) -> bool:
        """Wait until it has looked at the program a few times."""
        deadline = time.monotonic() + 120
        while self.looks[program] < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.looks[program] >= 5

    def stop(self) -> None:
        self._end.set()
        self.join()


def logging_all(verb: Callable, *arguments: object, log: object, **keywords: object) -> object:
    return verb(*arguments, log=logging.getLogger("core"), **keywords)


def test_no_secret_is_seen_in_proc_logs_results_or_the_manifest(
    pg16: Cluster,
    role,
    database: str,
    to_and_fro,
    spool_dir: Path,
    s3: S3Server,
    bucket: str,
    leftovers,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    # All that the core says, at every level.
    for verb in ("back_up", "restore"):
        monkeypatch.setattr(hook, verb, functools.partial(logging_all, getattr(hook, verb)))
    canary = "c4nary-Passw0rd"
    secrets = [canary.encode(), b"c4nary-sslpassword", s3.secret_key.encode()]
    with pg16.connect(database) as connection:
        # Too large for a pack: pg_restore reads it while it is downloaded.
        connection.execute("create table wide as select repeat('x', 200000) from generate_series(1, 10)")
        connection.execute("delete from t")
    spy = Spy(spool_dir, secrets)
    spy.start()
    # Both are seen at work: pg_dump waits for a lock, pg_restore for the data of a table.
    blocker = pg16.connect(database)
    blocker.execute("begin; lock table wide in access exclusive mode")
    threading.Thread(target=lambda: (spy.has_seen("pg_dump"), blocker.close()), daemon=True).start()
    original = resolving.s3_client

    def watched(*of: object) -> object:
        client, arguments = original(*of)
        client.meta.events.register("before-send.s3.GetObject", lambda request, **_: hold(request.url))
        return client, arguments

    def hold(url: str) -> None:
        if re.search(r"/\d{6}\.zst$", url):
            spy.has_seen("pg_restore")

    monkeypatch.setattr(resolving, "s3_client", watched)
    try:
        done = to_and_fro(
            {
                "host": pg16.host,
                "port": pg16.port,
                "login": role(canary),
                "password": canary,
                "schema": database,
                "extra": {"sslpassword": "c4nary-sslpassword", "keepalives_idle": 77},
            }
        )
    finally:
        spy.stop()
    assert set(spy.looks) == {"pg_dump", "pg_restore"}
    assert min(spy.looks.values()) >= 5
    assert spy.found == set()
    assert spy.modes >= {("pgpass", "0o600"), ("pg_service.conf", "0o600"), ("workspace", "0o700")}
    client = s3.client()
    assert "pg_dump 16" in caplog.text
    texts = [str(done), caplog.text, *capfd.readouterr()]
    for key in leftovers():
        if key.endswith(".json"):
            texts.append(client.get_object(Bucket=bucket, Key=key)["Body"].read().decode())
    for secret in secrets:
        for text in texts:
            assert secret.decode() not in text


def test_a_missing_connection_is_named(connections) -> None:
    with pytest.raises(Exception, match="connection 'nowhere' does not exist"):
        resolving.postgres_parameters("nowhere", None)
    with pytest.raises(Exception, match="connection 'nowhere' does not exist"):
        resolving.s3_client("nowhere")
