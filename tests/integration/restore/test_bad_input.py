"""Bad input gets one clear error that names the thing, before anything is touched."""

import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import botocore.auth
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3 import core
from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.members import Member, write_members
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from testkit.fault_proxy import FaultProxy, Refuse
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.support.stored_backups import sealed_json

on_moto = pytest.mark.parametrize("s3", ["moto"], indirect=True)
on_ceph = pytest.mark.parametrize("s3", ["ceph"], indirect=True)


@pytest.fixture(scope="module")
def database(pg16: Cluster) -> Iterator[str]:
    pg16.create_database("bad input")
    pg16.psql("create table t as select 1 as i", "bad input")
    yield "bad input"
    pg16.drop_database("bad input")


@pytest.fixture
def refused(leftovers: Callable[[], list[str]]) -> Callable[..., str]:
    """(what to say, function) → calls it, and makes sure that it was refused for good and nothing was stored."""

    def check(match: str, action: Callable, **arguments: object) -> str:
        before = leftovers()
        with pytest.raises(AirflowFailException, match=match) as caught:
            action(**arguments)
        assert "\n" not in str(caught.value).strip() or "pg_dump" in str(caught.value)
        assert leftovers() == before
        return str(caught.value)

    return check


BACKUPS = {
    "repository without a scheme": (
        {"repository": "bucket/prefix"},
        "repository must look like s3://bucket/prefix",
    ),
    "repository of http": ({"repository": "https://bucket/prefix"}, "repository must look like"),
    "repository with ..": ({"repository": "s3://bucket/a/../b"}, "'..' path segment"),
    "no jobs": ({"jobs": 0}, "jobs must be at least 1, not 0"),
    "negative jobs": ({"jobs": "-1"}, "jobs must be at least 1"),
    "jobs in words": ({"jobs": "many"}, "jobs must be a number, not 'many'"),
    "level 0": ({"compression_level": 0}, "compression_level must be 1 to 19"),
    "small spool": ({"spool_limit": 1000}, "spool_limit must be at least"),
    "no spool_dir": ({"spool_dir": "/nonexistent/folder"}, "spool_dir /nonexistent/folder cannot be written"),
    "no such database": ({"database": "no such db"}, 'database "no such db" does not exist'),
    "options as a string": ({"pg_dump_options": "--no-owner"}, "pg_dump_options must be a list"),
    "recipient": ({"age_recipients": ["age1nonsense"]}, "age recipient 'age1nonsense' is not valid"),
    "AWS connection": ({"aws_conn_id": "no_such_aws"}, "connection 'no_such_aws' does not exist"),
    "Postgres connection": ({"postgres_conn_id": "no_such_pg"}, "connection 'no_such_pg' does not exist"),
    "no connection": ({"postgres_conn_id": None}, "no server is named: give the id of its Airflow connection"),
    "connection of another type": ({"postgres_conn_id": "aws"}, "is of type 'aws', not postgres"),
    "no such bucket": (
        {"repository": "s3://no-such-bucket-here/p"},
        "bucket 'no-such-bucket-here' does not exist",
    ),
}


@on_moto
@pytest.mark.parametrize(("arguments", "message"), BACKUPS.values(), ids=BACKUPS.keys())
def test_a_backup_that_cannot_work_is_refused(
    pg16: Cluster, database: str, back_up, refused, arguments: dict, message: str
) -> None:
    arguments = {"database": database} | arguments
    refused(message, lambda: back_up(pg16, arguments.pop("database"), **arguments))


@on_moto
@pytest.mark.parametrize(
    "options",
    [
        ["-f", "/tmp/x"], ["-f/tmp/x"], ["--file=/tmp/x"], ["--fil", "/tmp/x"], ["-Fp"], ["-vFp"], ["-j8"],
        ["--jobs=8"],
        ["-Z9"], ["--compress=9"], ["-d", "postgres"], ["--dbname=host=evil.example"], ["-h", "evil.example"],
        ["-U", "x"], ["--encoding=LATIN1"], ["--inserts"], ["--rows-per-insert=5"], ["-W"], ["--help"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_that_are_ours_are_refused(
    pg16: Cluster, database: str, back_up, refused, options: list[str]
) -> None:
    refused(
        r"pg_dump_options: '.*' (is set by airflow-provider-pg-s3|writes INSERT commands).*; remove it",
        lambda: back_up(pg16, database, pg_dump_options=options),
    )


@on_moto
@pytest.mark.parametrize(
    "options", [["postgres"], ["dbname=postgres host=evil.example"], ["--"], ["--no-such-option"], ["-n"]]
)
def test_options_that_are_none_are_refused(
    pg16: Cluster, database: str, back_up, refused, options: list[str]
) -> None:
    refused("pg_dump_options: ", lambda: back_up(pg16, database, pg_dump_options=options))


@on_moto
def test_options_that_are_the_users_work(pg16: Cluster, database: str, back_up) -> None:
    done = back_up(pg16, database, pg_dump_options=["--no-owner", "-n", "public", "--exclude-table=no_such", "-x"])
    assert done["tables"] == 1


@on_ceph
@pytest.mark.parametrize("change", [{"password": "wrong secret"}, {"login": "wrong key"}], ids=["secret", "key"])
def test_wrong_s3_keys_are_refused(
    pg16: Cluster, database: str, back_up, connections, s3: S3Server, refused, change: dict
) -> None:
    connections.set("wrong", json.dumps(json.loads(s3.airflow_connection()) | change))
    message = refused("S3 refuses access to bucket", lambda: back_up(pg16, database, aws_conn_id="wrong"))
    assert "wrong secret" not in message


@on_ceph
def test_a_clock_that_is_wrong_is_no_missing_right(
    pg16: Cluster, database: str, back_up, leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.now(UTC) + timedelta(hours=1))
    # Not for good: a clock may be right at the next attempt.
    with pytest.raises(StorageError, match="S3 refuses requests whose time differs from its own") as caught:
        back_up(pg16, database)
    assert "rights" not in str(caught.value)
    monkeypatch.undo()
    assert leftovers() == []


DECRYPT = "User: arn:aws:iam::123:user/x is not authorized to perform: kms:Decrypt on resource: arn:aws:kms:k"


@on_moto
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(403, "AccessDenied", DECRYPT), (400, "KMS.DisabledException", "arn:aws:kms:k is disabled.")],
    ids=["no right to the key", "key disabled"],
)
def test_what_the_key_service_refuses_is_said_in_its_own_words(
    pg16: Cluster,
    database: str,
    back_up,
    restore,
    list_backups,
    connections,
    s3: S3Server,
    new_name,
    status,
    code,
    said,
) -> None:
    done = back_up(pg16, database)
    refusal = Refuse(status, code, message=said)
    with FaultProxy(s3) as proxy:
        connections.set("aws", proxy.airflow_connection())
        proxy.reset(lambda request: refusal if request.operation == "GetObject" else None)
        for attempt in (list_backups, lambda: restore(pg16, new_name(pg16), backup=done["uri"])):
            with pytest.raises(AirflowFailException, match=re.escape(said)) as caught:
                attempt()
            assert "check the AWS connection" not in str(caught.value)
        proxy.reset(lambda request: refusal if request.operation == "PutObject" else None)
        with pytest.raises(StorageError, match=re.escape(said)):
            back_up(pg16, database)


@on_moto
def test_a_client_that_is_too_old_is_refused_with_what_there_is(
    pg18: Cluster, pg16: Cluster, back_up, connections, new_database, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = new_database(pg18)
    connections.set_option("client_path", str(pg16.pg_bin))
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    message = refused("PostgreSQL 18 is to be dumped", lambda: back_up(pg18, database))
    assert f"{pg16.version} in {pg16.pg_bin}" in message
    assert "postgresql-client-18" in message


@pytest.fixture
def backup(pg16: Cluster, database: str, back_up) -> dict:
    return back_up(pg16, database)


RESTORES = {
    "no URI": ({"backup": "latest"}, "backup must look like s3://"),
    "no such backup": ({"backup": "{repository}/nothing.json"}, "there is no backup s3://"),
    "no such bucket": (
        {"backup": "s3://no-such-bucket-here/x.json"},
        "bucket 'no-such-bucket-here' does not exist",
    ),
    "not a manifest": ({"backup": "{repository}/text.json"}, "is not a manifest"),
    "no jobs": ({"jobs": 0}, "jobs must be at least 1"),
    "if_exists": ({"if_exists": "overwrite"}, "if_exists must be"),
    "an option of ours": ({"pg_restore_options": ["--clean"]}, "'--clean' is set by airflow-provider-pg-s3"),
    "dbname": ({"pg_restore_options": ["-d", "postgres"]}, "'-d' is set by airflow-provider-pg-s3"),
    "tables as a string": ({"tables": "public.t"}, "tables must be a list"),
    "no such table": ({"tables": ["public.tt"]}, r"tables: 'public.tt' matches nothing.*did you mean public\.t"),
    "identity": ({"age_identity_conn_id": "no_such"}, "connection 'no_such' does not exist"),
}


@on_moto
@pytest.mark.parametrize(("arguments", "message"), RESTORES.values(), ids=RESTORES.keys())
def test_a_restore_that_cannot_work_is_refused_and_creates_no_database(
    pg16: Cluster, backup: dict, restore, new_name, s3: S3Server, bucket: str, arguments: dict, message: str
) -> None:
    s3.client().put_object(Bucket=bucket, Key="some/prefix/text.json", Body=b"not json")
    target = new_name(pg16)
    arguments = {"backup": backup["uri"]} | {
        k: v.format(repository=f"s3://{bucket}/some/prefix") if k == "backup" else v for k, v in arguments.items()
    }
    with pytest.raises(Exception, match=message):
        restore(pg16, target, **arguments)
    with pg16.connect() as connection:
        assert connection.execute("select 1 from pg_database where datname = %s", [target]).fetchone() is None


@on_moto
@pytest.mark.parametrize(
    "content",
    [
        "create table anything ()", "create view v as select 1",
        "create function f() returns int language sql return 1",
        "create type mood as enum ('a')", "create schema empty", "select lo_create(0)", "create sequence s",
        "create domain d as int", "create materialized view m as select 1",
    ],
)  # fmt: skip
def test_a_target_that_holds_anything_is_refused(
    pg16: Cluster, backup: dict, restore, new_database, refused, content: str
) -> None:
    target = new_database(pg16, content)
    message = refused("is not empty, it holds", lambda: restore(pg16, target, backup=backup["uri"]))
    assert target in message


@on_moto
def test_a_target_that_is_older_than_the_source_is_refused(
    pg16: Cluster, pg18: Cluster, back_up, restore, new_database, new_name, refused
) -> None:
    backup = back_up(pg18, new_database(pg18))
    refused(
        r"PostgreSQL 16, older than the source's 18\.",
        lambda: restore(pg16, new_name(pg16), backup=backup["uri"]),
    )


@on_moto
def test_a_manifest_of_a_future_format_says_to_upgrade(
    pg16: Cluster, backup: dict, restore, new_name, s3: S3Server, bucket: str, refused
) -> None:
    text = s3.client().get_object(Bucket=bucket, Key=backup["key"])["Body"].read()
    future = json.loads(text) | {"format": 2}
    s3.client().put_object(Bucket=bucket, Key=backup["key"], Body=sealed_json(future))
    refused("has format 2.*upgrade", lambda: restore(pg16, new_name(pg16), backup=backup["uri"]))


def hostile(manifest: dict) -> Iterator[dict]:
    """Manifests that try to reach beyond their repository."""
    record, *records = manifest["packs"]
    for key in (
        "../x",
        "/x",
        "20200101T000000Z-aaaaaa/x.zst",
        f"{manifest['backup_id']}/../x",
        "x",
        f"{manifest['backup_id']}/a/b",
    ):
        yield manifest | {"packs": [record | {"key": key}, *records]}
    for folder in ("..", "", "/etc", "a/b", "20200101T000000Z-aaaaaa/..", "20200101T000000Z-AAAAAA"):
        yield manifest | {"runs": {folder: [[1, 1]]}}
    yield manifest | {"backup_id": "20200101T000000Z-aaaaaa"}


def hostile_members(members: list[Member]) -> Iterator[list[Member]]:
    """Lists of members that try to reach beyond the workspace."""
    first, *others = members
    for name in ("../evil.dat", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "x\0y", "x" * 300):
        yield [replace(first, name=name), *others]
    yield [replace(first, pack="../x"), *others]


@on_moto
def test_hostile_manifests_and_lists_of_members_are_refused(
    pg16: Cluster, backup: dict, restore, new_name, members_of, s3: S3Server, bucket: str
) -> None:
    manifest = json.loads(s3.client().get_object(Bucket=bucket, Key=backup["key"])["Body"].read())
    list_key = backup["key"].removesuffix(".json") + "/members.json.zst"
    forged: list[tuple[dict, bytes]] = []
    stored = s3.client().get_object(Bucket=bucket, Key=list_key)["Body"].read()
    forged += [(each, stored) for each in hostile(manifest)]
    for each in hostile_members(members_of(backup)):
        packed, record = write_members(each)
        forged.append((manifest | {"members": record.model_dump()}, packed))
    target = new_name(pg16)
    for changed, packed in forged:
        s3.client().put_object(Bucket=bucket, Key=list_key, Body=packed)
        s3.client().put_object(Bucket=bucket, Key=backup["key"], Body=sealed_json(changed))
        with pytest.raises(Exception, match=r"is refused|another backup"):
            restore(pg16, target, backup=backup["uri"])
    assert len(forged) == 13 + 10
    with pg16.connect() as connection:
        assert connection.execute("select 1 from pg_database where datname = %s", [target]).fetchone() is None


@on_moto
def test_a_database_of_the_same_name_on_another_server_is_noticed(
    pg16: Cluster, pg18: Cluster, back_up, new_database, capfd: pytest.CaptureFixture[str]
) -> None:
    name = new_database(pg16)
    pg18.create_database(name)
    try:
        back_up(pg16, name)
        back_up(pg16, name)
        assert "is of another server" not in capfd.readouterr().out
        back_up(pg18, name)
        assert "is of another server" in capfd.readouterr().out
    finally:
        pg18.drop_database(name)


@on_moto
def test_ids_and_times_come_from_the_servers_clock(
    pg16: Cluster, database: str, back_up, manifest_of: Callable[[dict], Manifest]
) -> None:
    with pg16.connect() as connection:
        before = connection.execute("select clock_timestamp()").fetchone()[0]
        done = back_up(pg16, database)
        after = connection.execute("select clock_timestamp()").fetchone()[0]
    manifest = manifest_of(done)
    assert before <= manifest.created_at <= after
    assert manifest.backup_id.startswith(f"{manifest.created_at:%Y%m%dT%H%M%SZ}-")
    # The worker's clock is the same one here; so make sure that nobody asks it.
    # What looks at backups later, perhaps where no server is, has no other clock.
    others = {"freshness.py", "listing.py", "object_lock.py", "survey.py", "verify.py"}
    for path in (path for path in Path(core.__path__[0]).glob("*.py") if path.name not in others):
        assert not re.search(r"\btime\.time\(|\.(utc)?now\(|\.today\(", path.read_text()), path


def test_the_operator_takes_no_unknown_argument() -> None:
    with pytest.raises(TypeError, match="no_such_argument"):
        PgS3BackupOperator(task_id="b", repository="s3://bucket/p", no_such_argument=1)


ONCE = {"config_kwargs": {"retries": {"total_max_attempts": 1}}, "region_name": "us-east-1"}
KEY = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
NOBODY = "http://127.0.0.1:1"
ROLE = {"role_arn": "arn:aws:iam::123456789012:role/backup", "service_config": {"sts": {"endpoint_url": NOBODY}}}


@on_moto
@pytest.mark.parametrize(
    ("extra", "says", "kind"),
    [
        (ONCE, "there are no AWS credentials .*: put a key into login", StorageError),
        (
            ONCE | KEY | {"endpoint_url": NOBODY},
            "S3 cannot be reached: .*check the network .* endpoint_url in",
            StorageError,
        ),
        (
            ONCE | KEY | {"endpoint_url": "db:80"},
            "'odd' cannot be used: .* db:80; write http",
            AirflowFailException,
        ),
        (ONCE | KEY | ROLE, "the role of the AWS connection 'odd' cannot be assumed", StorageError),
        (KEY | ROLE, "the AWS connection 'odd' names no region: put", AirflowFailException),
        ({"profile_name": "nix"}, "the AWS connection 'odd' cannot be used: .*nix", AirflowFailException),
        ({"config_kwargs": {"x": 1}}, "the AWS connection 'odd' cannot be used: .*'x'", AirflowFailException),
    ],
    ids=[
        "no credentials",
        "no network",
        "no scheme",
        "no network for a role",
        "no region",
        "no profile",
        "no such setting",
    ],
)
def test_aws_out_of_reach_is_one_sentence_in_the_log_and_in_the_exception(
    connections, list_backups, monkeypatch, caplog, extra: dict, says: str, kind: type[Exception]
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    connections.set("odd", json.dumps({"conn_type": "aws", "extra": extra}))
    monkeypatch.setattr(PgS3ListBackupsOperator, "log", logging.getLogger("listing"))
    with pytest.raises(kind, match=says) as caught:
        list_backups(aws_conn_id="odd")
    logged = [" ".join(record.message.split()) for record in caplog.records if record.name == "listing"]
    assert logged == [str(caught.value)]
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.endswith(f"{caught.value}\n")
    assert "urllib3" not in shown
    assert "botocore" not in shown
