"""The rights that SECURITY.md names are enough, on S3 and in PostgreSQL, and none of them is more."""

import json
import logging
import re
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from psycopg import sql

from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import PruneRequest, prune
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.verify.verify import verify
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster
from testkit.s3 import Ceph, Moto, S3Server
from tests.support.stored_backups import Shelf

DOCUMENT = (Path(__file__).parents[3] / "SECURITY.md").read_text()
PREFIX = "prod"
FILL = """
create table large as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, 50000) i;
create table hidden (i int);
insert into hidden select generate_series(1, 10);
alter table hidden enable row level security;
create policy nobody on hidden using (false);
create sequence counter;
"""


def block(kind: str, name: str) -> str:
    """A code block of SECURITY.md."""
    found = re.search(rf"^```{kind} {name}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"SECURITY.md has no block {kind} {name}"
    return found.group(1)


@pytest.fixture
def locked_bucket(ceph: Ceph) -> str:
    return ceph.create_bucket(f"locked-{uuid.uuid4().hex[:12]}", ObjectLockEnabledForBucket=True)


@pytest.fixture
def grant(ceph: Ceph, bucket: str) -> Callable[..., S3Server]:
    """(name of a policy in SECURITY.md, bucket) → the server as a user sees it who has just these rights."""
    statements: list[dict] = []

    def allow(name: str, bucket: str = bucket) -> S3Server:
        user = f"{name}-{uuid.uuid4().hex[:8]}"
        seen = ceph.user(user)
        policy = json.loads(block("json", name).replace("acme-backups", bucket))
        for statement in policy["Statement"]:
            statements.append(statement | {"Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]}})
        text = json.dumps({"Version": policy["Version"], "Statement": statements})
        ceph.client().put_bucket_policy(Bucket=bucket, Policy=text)
        return seen

    return allow


@pytest.fixture
def repository(bucket: str) -> str:
    return f"s3://{bucket}/{PREFIX}"


@pytest.fixture
def role(pg18: Cluster) -> Callable[[str], str]:
    """(name of a block in SECURITY.md) → the role that it creates, with a password, for this test."""

    def create(name: str) -> str:
        pg18.psql(f"drop role if exists {name}")
        pg18.psql(block("sql", name))
        with pg18.connect() as connection:
            connection.execute(sql.SQL("alter role {} password 'secret of the role'").format(sql.Identifier(name)))
        return name

    return create


def as_role(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, role: str) -> None:
    """Let the connections that tests make log in with it."""
    original = Cluster.airflow_connection

    def airflow_connection(self: Cluster, database: str, **extra: object) -> str:
        return json.dumps(
            json.loads(original(self, database, **extra)) | {"login": role, "password": "secret of the role"}
        )

    monkeypatch.setattr(Cluster, "airflow_connection", airflow_connection)


@pytest.mark.parametrize("s3", ["ceph"], indirect=True)
def test_the_rights_on_s3(
    pg18: Cluster,
    new_database: Callable[..., str],
    connections,
    grant: Callable[[str], S3Server],
    back_up: Callable[..., dict],
    list_backups: Callable[..., list],
    assert_restored: Callable[..., dict],
    bucket: str,
    ceph: Ceph,
) -> None:
    database = new_database(pg18, FILL)
    backup_user, restore_user = grant("backup"), grant("restore")
    connections.set("aws", backup_user.airflow_connection())
    done = back_up(pg18, database)
    # What a killed backup has left must not stop the next one, whether or not it may be removed.
    folder = done["key"].removesuffix(".json")[:-6] + "000000"
    writer = backup_user.client()
    record = writer.get_object(Bucket=bucket, Key=done["key"].removesuffix(".json") + "/begun")["Body"].read()
    writer.put_object(Bucket=bucket, Key=f"{folder}/begun", Body=record)
    # It may read what is needed to know what is stored.
    assert back_up(pg18, database)["new_chunks"] == 0 < done["new_chunks"]

    connections.set("aws", restore_user.airflow_connection())
    assert done["uri"] in [row["uri"] for row in list_backups()]
    assert_restored(pg18, database, pg18, done)

    # The bucket's owner's, for Ceph lets whoever wrote an object read it.
    data, manifest = (f"{PREFIX}/another/20260101T000000Z-000000{end}" for end in ("/pack-0001.tar.zst", ".json"))
    for key in (data, manifest):
        ceph.client().put_object(Bucket=bucket, Key=key, Body=b"x")
    for client, operation, arguments in (
        (writer, "get_object", {"Key": data}),
        (writer, "delete_object", {"Key": data}),
        (writer, "delete_object", {"Key": manifest}),
        (writer, "put_object", {"Key": "elsewhere", "Body": b""}),
        (restore_user.client(), "put_object", {"Key": data, "Body": b""}),
        (restore_user.client(), "delete_object", {"Key": data}),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            getattr(client, operation)(Bucket=bucket, **arguments)


def test_the_rights_to_prune_and_to_verify() -> None:
    """On moto: Ceph 16 lets no bucket policy grant the deletion of several objects in one request."""
    log, cancel = logging.getLogger("rights"), threading.Event()
    with Moto() as server:
        bucket = server.create_bucket("rights")
        shelf = Shelf(server.client(), f"s3://{bucket}/{PREFIX}")
        new, old = (shelf.put_backup("shop", datetime.now(UTC) - timedelta(days=days)) for days in (0, 1))
        for backup_id in (new, old):
            shelf.put(f"shop/{backup_id}/pack-0001.tar.zst", b"abcd")

        def user(name: str, *more: dict) -> S3Server:
            policy = json.loads(block("json", name).replace("acme-backups", bucket))
            policy["Statement"] += more
            return server.user(name, json.dumps(policy))

        # Of the objects named in the body, moto asks no policy, but of the bucket, as AWS does not.
        multiple = {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}"}
        pruner, verifier = user("prune", multiple), user("verify")
        server.check_rights()

        request = VerifyRequest(backup=shelf.uri("shop", new), level="checksum")
        done = verify(request, verifier.client(), cancel=cancel, log=log)
        assert done.evidence_uri is not None
        repository = Repository(pruner.client(), f"s3://{bucket}/{PREFIX}")
        (pruned,) = prune(PruneRequest(retention=RetentionPolicy(keep_last=1)), repository, cancel=cancel, log=log)
        assert [(d.backup_id, d.outcome) for d in pruned.decisions] == [(new, "kept"), (old, "deleted")]
        data, manifest = (f"{PREFIX}/shop/{new}{end}" for end in ("/pack-0001.tar.zst", ".json"))
        for client, operation, arguments in (
            (pruner.client(), "get_object", {"Key": data}),
            (pruner.client(), "put_object", {"Key": manifest, "Body": b""}),
            (verifier.client(), "put_object", {"Key": data, "Body": b""}),
            (verifier.client(), "put_object", {"Key": manifest, "Body": b""}),
            (verifier.client(), "delete_object", {"Key": data}),
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                getattr(client, operation)(Bucket=bucket, **arguments)


@pytest.mark.parametrize("s3", ["ceph"], indirect=True)
def test_the_rights_to_prune_show_locks(ceph: Ceph, locked_bucket: str, grant: Callable[..., S3Server]) -> None:
    owner = ceph.client()
    shelf = Shelf(owner, f"s3://{locked_bucket}/{PREFIX}")
    new, free, held, retained = (
        shelf.put_backup("shop", datetime.now(UTC) - timedelta(days=days)) for days in range(4)
    )
    for backup_id in (new, free, held, retained):
        shelf.put(f"shop/{backup_id}/pack-0001.tar.zst", b"abcd")
    owner.put_object_legal_hold(
        Bucket=locked_bucket, Key=f"{PREFIX}/shop/{held}/pack-0001.tar.zst", LegalHold={"Status": "ON"}
    )
    owner.put_object_retention(
        Bucket=locked_bucket,
        Key=f"{PREFIX}/shop/{retained}.json",
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=1)},
    )
    pruner = grant("prune", locked_bucket).client()
    with pytest.raises(ClientError, match="403"):
        pruner.head_object(Bucket=locked_bucket, Key=f"{PREFIX}/shop/{held}/pack-0001.tar.zst")
    (pruned,) = prune(
        PruneRequest(retention=RetentionPolicy(keep_last=1), dry_run=True),
        Repository(pruner, f"s3://{locked_bucket}/{PREFIX}"),
        cancel=threading.Event(),
        log=logging.getLogger("rights"),
    )
    outcomes = {decision.backup_id: decision.outcome for decision in pruned.decisions}
    assert outcomes == {new: "kept", free: "deleted", held: "protected", retained: "protected"}


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
def test_the_rights_in_postgresql(
    pg18: Cluster,
    new_database: Callable[..., str],
    new_name: Callable[..., str],
    role: Callable[[str], str],
    back_up: Callable[..., dict],
    restore: Callable[..., dict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = new_database(pg18, FILL)
    backup_role, restore_role = role("backup"), role("restore")
    with monkeypatch.context() as patch:
        as_role(patch, pg18, backup_role)
        done = back_up(pg18, database)
    assert done["rows"] == 50010
    copy = new_name(pg18, "copy")
    with monkeypatch.context() as patch:
        as_role(patch, pg18, restore_role)
        restore(pg18, copy, backup=done["uri"], pg_restore_options=["--no-owner"])
    differences = compare_databases(pg18.dsn(database), pg18.dsn(copy))
    assert all("Owner" in difference for difference in differences), differences
