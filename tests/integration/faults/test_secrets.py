"""Whatever fails, and how: no password, key or identity is in what anybody else can see."""

import functools
import json
import logging
import os
import stat
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pyrage
import pytest
from psycopg import sql

from airflow_pg_s3.hooks import pg_s3 as hook
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.prune import PgS3PruneOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.dumps import dump
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.support.fault_tally import TALLY
from tests.support.sampling import sample

PASSWORD = "c4nary Passw0rd:of\\role"
SSLPASSWORD = "c4nary-sslpassword"
WRONG = "c4nary-wr0ng"
AWS_SECRET = "c4nary/secret+key"
AWS_TOKEN = "c4nary-session-token"
# Where passwords may be, for libpq: of the owner alone.
FILES_OF_SECRETS = {"pgpass", "pg_service.conf", "pg_service.workers"}
READ_BYTES = 1 << 16

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)


class Spy(threading.Thread):
    """Looks at every process that works in a folder, and at every file in it, for the time of a `with` block."""

    def __init__(self, folder: Path, secrets: list[str]) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._secrets = [secret.encode() for secret in secrets]
        self._own = os.getpid()
        self._end = threading.Event()
        self.programs: set[str] = set()
        self.found: set[str] = set()

    def __enter__(self) -> "Spy":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.wait(0.002):
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and int(process.name) != self._own:
                    self._look_at_process(process)
            for folder, folders, files in os.walk(self._folder):
                for name in folders + files:
                    self._look_at_file(Path(folder, name))

    def _look_at_process(self, process: Path) -> None:
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # gone meanwhile
            return
        if str(self._folder).encode() in text:
            program = text.split(b"\0")[0].rpartition(b"/")[2].decode()
            self.programs.add(program)
            self.found |= {f"{secret!r} in {program}'s arguments or environment" for secret in self._in(text)}

    def _look_at_file(self, path: Path) -> None:
        try:
            mode = path.lstat().st_mode
            # A throwaway server of another user has to pass through it (0710).
            if stat.S_ISDIR(mode) and path.parent == self._folder and mode & 0o067:
                self.found.add(f"the folder {path.name} has mode {mode & 0o777:o}")
            if not stat.S_ISREG(mode):
                return
            with path.open("rb") as file:
                text = file.read(READ_BYTES)
        except OSError:
            return
        for secret in self._in(text):
            # While it is being written, a file has more behind its name.
            if path.name.partition("-")[0] not in FILES_OF_SECRETS or mode & 0o077:
                self.found.add(f"{secret!r} in the file {path.name} of mode {mode & 0o777:o}")

    def _in(self, text: bytes) -> list[bytes]:
        return [secret for secret in self._secrets if secret in text]


@pytest.fixture(scope="module")
def source(pg18: Cluster) -> Iterator[SimpleNamespace]:
    """A database, and a superuser whose password nobody may see."""
    pg18.create_database("secretive")
    with pg18.connect("secretive") as connection:
        connection.execute("create table t as select i, repeat('x', 20000) as x from generate_series(1, 100) i")
        connection.execute("create table wide as select repeat(i::text, 500) as x from generate_series(1, 4000) i")
        connection.execute(
            sql.SQL("create role secretive superuser login password {}").format(sql.Literal(PASSWORD))
        )
    yield SimpleNamespace(cluster=pg18, database="secretive")
    pg18.drop_database("secretive")
    pg18.psql("drop role secretive")


class Stage:
    """Operators over connections full of secrets.

    :param secrets: all that must not be seen.
    """

    def __init__(self, source: SimpleNamespace, s3: S3Server, connections, repository: str, spool: Path) -> None:
        self.source = source
        self.s3 = s3
        self.repository = repository
        self.spool = spool
        self.set = connections.set
        self.identity = str(pyrage.x25519.Identity.generate())
        other = str(pyrage.x25519.Identity.generate())
        self.recipient = str(pyrage.x25519.Identity.from_str(self.identity).to_public())
        in_a_passfile = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
        self.secrets = [PASSWORD, in_a_passfile, SSLPASSWORD, WRONG, AWS_SECRET, AWS_TOKEN, self.identity, other]
        self.postgres("pg")
        self.postgres("pg_wrong", password=WRONG)
        self.aws("aws_secretive")
        self.set("age", json.dumps({"conn_type": "generic", "password": self.identity}))
        self.set("age_other", json.dumps({"conn_type": "generic", "password": other}))
        self.set("age_broken", json.dumps({"conn_type": "generic", "password": self.identity[:-4] + "AAAA"}))

    def postgres(self, conn_id: str, **changes: object) -> None:
        cluster = self.source.cluster
        connection = {
            "conn_type": "postgres", "host": cluster.host, "port": cluster.port, "login": "secretive",
            "password": PASSWORD, "schema": self.source.database, "extra": {"sslpassword": SSLPASSWORD},
        }  # fmt: skip
        self.set(conn_id, json.dumps(connection | changes))

    def aws(self, conn_id: str, **changes: object) -> None:
        connection = json.loads(self.s3.airflow_connection()) | {"password": AWS_SECRET}
        connection["extra"] |= {"aws_session_token": AWS_TOKEN, **changes}
        self.set(conn_id, json.dumps(connection))

    def back_up(self, **arguments: object) -> dict:
        return self._run(PgS3BackupOperator, repository=self.repository, postgres_conn_id="pg", **arguments)

    def restore(self, backup: str, **arguments: object) -> dict:
        return self._run(
            PgS3RestoreOperator,
            **{"backup": backup, "postgres_conn_id": "pg", "database": "a copy", "if_exists": "replace",
               "keep_previous": False} | arguments,
        )  # fmt: skip

    def verify(self, backup: str, **arguments: object) -> dict:
        return self._run(PgS3VerifyOperator, backup=backup, **arguments)

    def _run(self, operator: type, **arguments: object) -> dict:
        defaults = {"task_id": "t", "aws_conn_id": "aws_secretive", "spool_dir": str(self.spool)}
        return operator(**defaults | arguments).execute({})

    def prune(self, **arguments: object) -> dict:
        defaults = {"task_id": "p", "repository": self.repository, "aws_conn_id": "aws_secretive", "keep_last": 1}
        return PgS3PruneOperator(**defaults | arguments).execute({})

    def list(self) -> object:
        return PgS3ListBackupsOperator(
            task_id="l", repository=self.repository, aws_conn_id="aws_secretive"
        ).execute({})

    def damage(self, uri: str) -> str:
        """Flip a bit in the largest object."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        client = self.s3.client()
        found = client.list_objects_v2(Bucket=bucket, Prefix=key.removesuffix(".json") + "/")["Contents"]
        largest = max(found, key=lambda entry: entry["Size"])["Key"]
        data = bytearray(client.get_object(Bucket=bucket, Key=largest)["Body"].read())
        data[len(data) // 2] ^= 1
        client.put_object(Bucket=bucket, Key=largest, Body=bytes(data))
        return uri

    def foreign(self, tmp_path: Path) -> str:
        """Another tool's archive, truncated."""
        data = dump(self.source.cluster, self.source.database, "custom", tmp_path)
        bucket = self.repository.split("/")[2]
        self.s3.client().put_object(Bucket=bucket, Key="foreign.dump", Body=data[: len(data) // 2])
        return f"s3://{bucket}/foreign.dump"


def with_connection(name: str, act: Callable[[Stage], object], **changes: object) -> Callable[[Stage], object]:
    def run(stage: Stage) -> object:
        stage.postgres(name, **changes)
        return act(stage)

    return run


def cancelled(stage: Stage) -> object:
    task = PgS3BackupOperator(
        task_id="t", repository=stage.repository, postgres_conn_id="pg", aws_conn_id="aws_secretive",
        spool_dir=str(stage.spool),
    )  # fmt: skip
    task.on_kill()
    return task.execute({})


def refused_by_s3(stage: Stage) -> object:
    stage.aws("aws_refused", endpoint_url="http://127.0.0.1:1")
    return stage.back_up(aws_conn_id="aws_refused")


SUCCEEDS: dict[str, Callable[[Stage], object]] = {
    "backup": lambda stage: stage.back_up(),
    "encrypted, restored, verified, listed, pruned": lambda stage: [
        made := stage.back_up(age_recipients=[stage.recipient], include_globals=True),
        stage.restore(made["uri"], age_identity_conn_id="age", jobs=2),
        stage.verify(made["uri"], age_identity_conn_id="age"),
        stage.verify(made["uri"], age_identity_conn_id="age", postgres_conn_id="pg"),
        stage.list(),
        stage.prune(),
    ],
}
FAILS: dict[str, Callable[[Stage], object]] = {
    "wrong password": lambda stage: stage.back_up(postgres_conn_id="pg_wrong"),
    "wrong password of the target": lambda stage: stage.restore(
        stage.back_up()["uri"], postgres_conn_id="pg_wrong"
    ),
    "wrong password of the scratch server": lambda stage: stage.verify(
        stage.back_up()["uri"], postgres_conn_id="pg_wrong"
    ),
    "password in a misspelt keyword": with_connection(
        "pg_odd", lambda stage: stage.back_up(postgres_conn_id="pg_odd"), extra={"sslpasswrd": SSLPASSWORD}
    ),
    "password with a newline": with_connection(
        "pg_odd", lambda stage: stage.back_up(postgres_conn_id="pg_odd"), password=WRONG + "\n"
    ),
    "sslpassword with white space": with_connection(
        "pg_odd", lambda stage: stage.back_up(postgres_conn_id="pg_odd"), extra={"sslpassword": SSLPASSWORD + " "}
    ),
    "unknown sslmode": with_connection(
        "pg_odd", lambda stage: stage.back_up(postgres_conn_id="pg_odd"), extra={"sslmode": "perhaps"}
    ),
    "no PostgreSQL": with_connection(
        "pg_odd", lambda stage: stage.back_up(postgres_conn_id="pg_odd"), port=1
    ),
    "no S3": refused_by_s3,
    "no bucket": lambda stage: stage._run(
        PgS3BackupOperator, repository="s3://no-such-bucket/x", postgres_conn_id="pg"
    ),
    "pg_dump fails": lambda stage: stage.back_up(pg_dump_options=["--table=no_such_table"]),
    "an option that is ours": lambda stage: stage.back_up(pg_dump_options=["--file=/tmp/x"]),
    "told to stop": cancelled,
    "encrypted, no identity": lambda stage: stage.restore(
        stage.back_up(age_recipients=[stage.recipient])["uri"]
    ),
    "encrypted, another identity": lambda stage: stage.restore(
        stage.back_up(age_recipients=[stage.recipient])["uri"], age_identity_conn_id="age_other"
    ),
    "encrypted, a broken identity": lambda stage: stage.restore(
        stage.back_up(age_recipients=[stage.recipient])["uri"], age_identity_conn_id="age_broken"
    ),
    "an identity for a recipient": lambda stage: stage.back_up(age_recipients=[stage.identity]),
    "damaged, restored": lambda stage: stage.restore(stage.damage(stage.back_up()["uri"])),
    "damaged, verified": lambda stage: stage.verify(stage.damage(stage.back_up()["uri"])),
    "damaged, its checksums": lambda stage: stage.verify(stage.damage(stage.back_up()["uri"]), level="checksum"),
    "a check fails": lambda stage: stage.verify(stage.back_up()["uri"], checks=["select 1 / 0 = 1"]),
    "SQL after the restore fails": lambda stage: stage.restore(
        stage.back_up()["uri"], post_restore_sql=["no such command"]
    ),
    "pg_restore fails": lambda stage: stage.restore(
        stage.back_up()["uri"], if_exists="fail", database=stage.source.database
    ),
    "no such backup": lambda stage: stage.restore(f"{stage.repository}/secretive/20260101T000000Z-000000.json"),
    "prune without a rule": lambda stage: stage.prune(keep_last=0),
}  # fmt: skip


@pytest.fixture
def stage(
    source: SimpleNamespace,
    s3: S3Server,
    connections,
    repository: str,
    spool_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    # All that the core says, at every level.
    for verb in ("back_up", "restore", "verify", "prune"):
        monkeypatch.setattr(hook, verb, functools.partial(logging_all, getattr(hook, verb)))
    yield Stage(source, s3, connections, repository, spool_dir)
    source.cluster.drop_database("a copy")


def logging_all(verb: Callable, *arguments: object, log: object, **keywords: object) -> object:
    return verb(*arguments, log=logging.getLogger("core"), **keywords)


def shown_of(error: BaseException | None) -> str:
    return "" if error is None else "".join(traceback.format_exception(error))


@pytest.mark.parametrize("what", sample([*SUCCEEDS, *FAILS, "a foreign archive is truncated"], 14, "secrets"))
def test_no_secret_is_seen(
    stage: Stage,
    what: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    leftovers: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    # All of ours. At DEBUG botocore shows the headers that it signs, with the session token.
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "core")
    act = (SUCCEEDS | FAILS).get(what) or (lambda stage: stage.restore(stage.foreign(tmp_path)))
    result, error = None, None
    with Spy(stage.spool, stage.secrets) as spy:
        try:
            result = act(stage)
        except Exception as raised:
            error = raised
    assert (error is None) == (what in SUCCEEDS), shown_of(error)
    TALLY.count("secrets", what, "success" if error is None else "clear failure")
    client, bucket = stage.s3.client(), stage.repository.split("/")[2]
    shown = {
        "the result": json.dumps(result, default=str),
        "the error": shown_of(error),
        "the log": caplog.text,
        "the outputs": "".join(capfd.readouterr()),
    } | {
        key: client.get_object(Bucket=bucket, Key=key)["Body"].read().decode(errors="replace")
        for key in leftovers()
    }  # fmt: skip
    found = [
        f"{secret!r} in {where}" for where, text in shown.items() for secret in stage.secrets if secret in text
    ]
    TALLY.assert_none("secrets shown", [*found, *spy.found], what)


def test_the_spy_sees_what_there_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests before would prove nothing."""
    with Spy(stage.spool, ["--format=directory", "secretive"]) as spy:
        made = stage.back_up()
        stage.verify(made["uri"])
    assert {"pg_dump", "postgres"} <= spy.programs
    assert any("'--format=directory' in pg_dump's arguments" in found for found in spy.found)
    assert not any("pgpass" in found for found in spy.found)
