"""What would make a backup fail is said before the first night, with what to do; nothing of it stays."""

import json
import os
import uuid
from collections.abc import Callable

import pytest

from testkit.pgbouncer import PgBouncer
from testkit.postgres import Cluster, installations, with_vector
from testkit.s3 import Ceph
from tests.integration.cli.conftest import CLIENT_PATH, uri_of
from tests.integration.conftest import only_on

FILL = """
create table t as select 1 as i; create schema hidden; create table hidden.t (i int); create sequence hidden.s;
create table walled (i int); alter table walled enable row level security;
select lo_from_bytea(4711, 'x');
"""
# Of those who only make backups: SECURITY.md
BACKUP_RIGHTS = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:GetObject"]
LIST_RIGHTS = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]


@pytest.fixture
def database(pg18: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg18, FILL)


@pytest.fixture
def examine(pg18: Cluster, pg_s3, repository: str, spool_dir) -> Callable[..., tuple[int, dict[str, str]]]:
    """(POSTGRES, *arguments, client_path=…, **environment) → exit code; what is not ok, by the check."""

    def run(
        postgres: str, *arguments: str, client_path: list[str] = CLIENT_PATH, **environment: str
    ) -> tuple[int, dict[str, str]]:
        where = ("--spool-dir", str(spool_dir), *client_path)
        given = {"repository": repository, "PGPASSWORD": pg18.password} | environment
        done = pg_s3("doctor", postgres, given.pop("repository"), "--output", "json", *where, *arguments, **given)
        assert "Traceback" not in done.err, done.err
        facts = done.json
        assert facts["ok"] == (done.code == 0)
        bad: dict[str, str] = {}
        for one in facts["findings"]:
            if one["status"] != "ok":
                said = f"{one['status']}: {one['found']} -> {one['advice']}\n"
                bad[one["check"]] = bad.get(one["check"], "") + said
        return done.code, bad

    return run


def test_where_all_is_well_it_says_so_and_leaves_nothing(pg18: Cluster, pg_s3, repository, database, leftovers):
    done = pg_s3("doctor", uri_of(pg18, database), repository, *CLIENT_PATH, PGPASSWORD=pg18.password)
    assert done.code == 0, done.out
    assert " free, and a filesystem that fits; a backup takes up to 1.1 GB" in done.out
    checks = [line[9:].split("  ")[0] for line in done.out.splitlines() if line.startswith(("ok ", "WARNING"))]
    assert checks == [
        "connection", "clock of PostgreSQL", "sessions", "rights in PostgreSQL", "client programs",
        "throwaway server", "other programs", "pg_dump", "bucket", "clock of S3", "write to S3",
        "conditional writes", "list S3", "read from S3", "multipart uploads", "delete from S3", "Object Lock",
        "spool",
    ]  # fmt: skip
    others = [folder for major, folder in installations().items() if major != 18]
    assert all(f" in {folder}" in done.out.partition("not used, as 18.")[2] for folder in others)
    assert done.out.endswith("a backup has all that it needs\n")
    assert leftovers() == []


@only_on("moto")
def test_all_that_a_role_may_not_read_is_named(pg18: Cluster, database, examine):
    role = f"reader {uuid.uuid4().hex[:8]}"
    pg18.psql(f'create role "{role}" login password \'x\'; grant select on t, walled to "{role}"', database)
    try:
        postgres = f"host={pg18.host} port={pg18.port} user='{role}' dbname='{database}'"
        code, bad = examine(postgres, PGPASSWORD="x")
        assert code == 1
        assert set(bad) == {"rights in PostgreSQL", "pg_dump"}
        assert bad["rights in PostgreSQL"].splitlines() == [
            f'failure: "{role}" cannot read hidden.s, hidden.t -> GRANT pg_read_all_data TO "{role}" (or SELECT '
            "on each, and USAGE on its schema)",
            f'failure: "{role}" does not see all rows of public.walled -> ALTER ROLE "{role}" BYPASSRLS, or back '
            "up as their owner",
            f'failure: "{role}" cannot read the large objects 4711 -> back up as their owner, or as a superuser',
        ]
    finally:
        pg18.psql(f'drop owned by "{role}"; drop role "{role}"', database)


@only_on("moto")
@pytest.mark.parametrize(
    ("given", "check", "said"),
    [
        ({"PGPASSWORD": "wrong"}, "connection", "password authentication failed"),
        ({"arguments": ["--jobs", "1000"]}, "sessions", "1000 jobs take 1002"),
        ({"arguments": ["--spool-limit", str(1 << 60)]}, "spool", "a backup may take 1152921.50 TB"),
        ({"arguments": ["--spool-dir", "/proc"]}, "spool", "--spool-dir /proc cannot be written"),
        ({"repository": "s3://no-such-bucket/x"}, "bucket", "does not exist: create it"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "bucket", "S3 cannot be reached"),
    ],
)
def test_what_would_fail_is_a_failure(pg18: Cluster, database, examine, given, check, said):
    environment = {name: value for name, value in given.items() if name != "arguments"}
    code, bad = examine(uri_of(pg18, database), *given.get("arguments", []), **environment)
    assert code == 1
    assert bad[check].startswith("failure: ")
    assert said in bad[check]


@only_on("moto")
def test_what_will_matter_another_day_is_a_warning(pg18: Cluster, database, examine, s3):
    client, bucket = s3.client(), f"locked-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(bucket, ObjectLockEnabledForBucket=True)
    rule = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": "prod"}, "Expiration": {"Days": 30}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    older = ["--client-path", str(with_vector(18).folder)]
    retention = {"Mode": "GOVERNANCE", "Days": 1}
    client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}},
    )
    code, bad = examine(uri_of(pg18, database), repository=f"s3://{bucket}/prod", client_path=older)
    assert code == 0
    assert "warning: the bucket's rule 'tidy' deletes objects of backups after a time" in bad["lifecycle"]
    assert "upgrade the package postgresql-client-18" in bad["client programs"]
    assert set(bad) == {"lifecycle", "client programs"}


@only_on("moto")
def test_a_pool_of_transactions_is_a_failure(pg16: Cluster, examine):
    reason = PgBouncer.available()
    if reason is not None:
        if os.environ.get("PG_S3_REQUIRE_TOOLS") == "1":
            pytest.fail(f"PG_S3_REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)
    with PgBouncer(pg16, pool_mode="transaction") as pooler:
        postgres = f"host=127.0.0.1 port={pooler.port} user={pg16.user} dbname=postgres"
        code, bad = examine(postgres, PGPASSWORD=pg16.password)
    assert code == 1
    assert "is a pooler that lends PostgreSQL's sessions for one transaction at a time" in bad["connection"]


@only_on("ceph")
def test_what_it_may_not_delete_is_named(pg18: Cluster, ceph: Ceph, bucket, database, examine, leftovers):
    name = f"writer-{uuid.uuid4().hex[:8]}"
    user = ceph.user(name)
    who = {"Effect": "Allow", "Principal": {"AWS": [f"arn:aws:iam:::user/{name}"]}}
    policy = [
        who | {"Action": LIST_RIGHTS, "Resource": f"arn:aws:s3:::{bucket}"},
        who | {"Action": BACKUP_RIGHTS, "Resource": f"arn:aws:s3:::{bucket}/*"},
    ]
    ceph.client().put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": policy})
    )
    keys = {"AWS_ACCESS_KEY_ID": user.access_key, "AWS_SECRET_ACCESS_KEY": user.secret_key}
    code, bad = examine(uri_of(pg18, database), **keys)
    assert code == 0
    (left,) = leftovers()
    assert f"s3://{bucket}/{left} was stored by this examination, and cannot be deleted" in bad["delete from S3"]
