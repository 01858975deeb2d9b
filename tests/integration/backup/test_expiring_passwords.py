"""With ``iam``, the password expires long before a restore or a verification ends: each login gets a fresh one."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import Connection
from airflow.providers.postgres.hooks.postgres import PostgresHook
from psycopg import sql

from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.verify.comparison.copy_reader import CopyReader
from airflow_pg_s3.hooks import connections as resolving
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.dumps import dump
from testkit.postgres import Cluster
from tests.conftest import MAJORS
from tests.support.sampling import combine, sample

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

# Long enough to log in with, on a busy machine.
VALID_SECONDS = 4
SLOW = f"""
create function slow(i int) returns bool immutable language plpgsql as
    $$ begin perform pg_sleep({VALID_SECONDS + 1}); return true; end $$;
create table slowly (i int check (slow(i)));
insert into slowly values (1);
"""
ONLY_ON_16 = pytest.mark.parametrize("postgres", [16], indirect=True)


def drop_all(cluster: Cluster, *roles: str) -> None:
    """Drop roles, and the databases that this module's tests have made, in which they own or may do things."""
    with cluster.connect() as connection:
        for (name,) in connection.execute(
            "select datname from pg_database where datname like 'test %'"
        ).fetchall():
            cluster.drop_database(name)
    for role in roles:
        cluster.psql(f"reassign owned by {role} to postgres; drop owned by {role}; drop role {role}")


class Tokens:
    """Stands in for RDS: a token is good for logins of some seconds, and until the next one is made."""

    def __init__(self, cluster: Cluster, role: str) -> None:
        self._cluster = cluster
        self._role = role
        self.made: list[str] = []

    def __call__(self, _hook: object, _connection: object) -> tuple[str, str, int]:
        self.made.append(f"t0ken-{secrets.token_hex(8)}")
        with self._cluster.connect() as connection:
            until = connection.execute(f"select (now() + '{VALID_SECONDS}s')::text").fetchone()[0]
            command = f"alter role {self._role} password {{}} valid until {{}}"
            connection.execute(sql.SQL(command).format(self.made[-1], until))
        return self._role, self.made[-1], self._cluster.port


@pytest.fixture
def tokens(postgres: Cluster, connections, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tokens]:
    postgres.psql("create role by_token superuser login")
    made = Tokens(postgres, "by_token")
    monkeypatch.setattr(PostgresHook, "get_iam_token", lambda hook, connection: made(hook, connection))
    monkeypatch.setattr(resolving, "_TOKEN_SECONDS", -1.0)
    yield made
    drop_all(postgres, "by_token")


@pytest.fixture
def by_token(postgres: Cluster, tokens: Tokens, connections) -> Callable[[str], str]:
    """database → id of a connection with ``iam``."""

    def define(database: str) -> str:
        connection = {"conn_type": "postgres", "host": postgres.host, "schema": database, "extra": {"iam": True}}
        connections.set("by_token", json.dumps(connection))
        return "by_token"

    return define


@pytest.fixture
def outlasts(by_token, restore, new_name) -> Callable[..., dict]:
    """(cluster, backup, **arguments of the operator) → what the restore returns, into a database of its own."""

    def run(cluster: Cluster, backup: dict, **arguments: object) -> dict:
        target = new_name(cluster)
        arguments |= {"backup": backup["uri"], "postgres_conn_id": by_token(target)}
        done = restore(cluster, target, post_restore_sql="create table after as select 1 as i", **arguments)
        assert cluster.psql("table after", target).strip() == "1"
        assert cluster.psql("select count(*) from slowly", target).strip() == "1"
        return done

    return run


@pytest.mark.parametrize(
    ("postgres", "jobs"),
    sample(combine(MAJORS, [1, 2], name="expiring passwords"), 1, "expiring passwords"),
    indirect=["postgres"],
)
def test_a_restore_outlasts_its_password(postgres: Cluster, back_up, new_database, outlasts, tokens, jobs) -> None:
    backup = back_up(postgres, new_database(postgres, SLOW))
    assert outlasts(postgres, backup, jobs=jobs)["rows"] == 1
    assert len(tokens.made) > 2


@pytest.mark.parametrize(
    "arguments", sample([{"if_exists": "replace"}, {"managed_service": True}], 1, "does more"), ids=str
)
@ONLY_ON_16
def test_a_restore_that_does_more_outlasts_it_too(
    postgres: Cluster, back_up, new_database, outlasts, arguments: dict
) -> None:
    outlasts(postgres, back_up(postgres, new_database(postgres, SLOW)), **arguments)


@ONLY_ON_16
def test_a_restore_of_several_passes_outlasts_it_too(postgres: Cluster, back_up, new_database, outlasts) -> None:
    # A GRANT by another than the owner has a pass of its own, and what comes after privileges another one.
    postgres.psql("create role first_grantee; create role second_grantee")
    source = new_database(
        postgres,
        SLOW
        + """
        grant select on slowly to first_grantee with grant option;
        set role first_grantee; grant select on slowly to second_grantee; reset role;
        create materialized view late as select 1 as i;
        """,
    )
    try:
        outlasts(postgres, back_up(postgres, source))
    finally:
        drop_all(postgres, "first_grantee", "second_grantee")


@ONLY_ON_16
def test_an_archive_of_another_tool_outlasts_it_too(
    postgres: Cluster, new_database, outlasts, put, tmp_path: Path
) -> None:
    archive = put(dump(postgres, new_database(postgres, SLOW), "custom", tmp_path))
    outlasts(postgres, {"uri": archive})


@ONLY_ON_16
def test_a_verification_on_a_named_server_outlasts_it(
    postgres: Cluster, back_up, new_database, by_token, tokens, spool_dir, caplog: pytest.LogCaptureFixture
) -> None:
    # psql reads the large ones.
    large = "create table large as select repeat('x', 1000) as text from generate_series(1, 6000);"
    backup = back_up(postgres, new_database(postgres, SLOW + large + large.replace("large", "huge")))
    before = len(tokens.made)
    done = PgS3VerifyOperator(
        task_id="verify",
        backup=backup["uri"],
        postgres_conn_id=by_token("postgres"),
        aws_conn_id="aws",
        spool_dir=str(spool_dir),
        jobs=1,  # else one would make the token void that another is about to log in with, which RDS does not do
        checks=["select count(*) = 1 from slowly"],
    ).execute({})
    assert done["outcome"] == "verified"
    assert len(tokens.made) - before > 5
    assert not any(token in caplog.text for token in tokens.made)


@ONLY_ON_16
def test_a_table_that_is_read_late_is_read_with_a_fresh_one(
    postgres: Cluster, back_up, new_database, by_token, manifest_of, tmp_path: Path
) -> None:
    database = new_database(postgres)
    manifest = manifest_of(back_up(postgres, database))
    params = resolving.postgres_parameters(by_token(database), None)
    tools = client_versions.for_restore(
        dumped_by=manifest.dump.pg_dump_version, target_version=160000, search=resolving.client_path()
    )
    env = params.environment(tmp_path)
    reader = CopyReader(manifest, params, tools=tools, env=env)  # whose login has made the token in `env` void
    try:
        # So much that psql reads it.
        assert b"".join(reader.copy(b"COPY (SELECT 1) TO STDOUT", expected_bytes=5 << 20)) == b"1\n"
    finally:
        reader.close()


def test_a_token_is_asked_for_anew_when_it_is_about_to_expire_and_masked(
    connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    masked: list[str] = []

    def token(_hook: object, connection: Connection) -> tuple[str, str, int]:
        made.append(f"token {len(made)} of {connection.login}")
        return "they", made[-1], 5432

    monkeypatch.setattr(PostgresHook, "get_iam_token", token)
    monkeypatch.setattr(resolving, "mask_secret", masked.append)
    connections.set("iam", '{"conn_type": "postgres", "login": "me", "schema": "d", "extra": {"iam": true}}')
    params = resolving.postgres_parameters("iam", None)
    assert params.endpoint == "they@local socket:5432/d"
    assert params.password is not None
    assert [params.password(), params.of("e").password()] == ["token 0 of me"] * 2
    later = time.monotonic() + 301
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert [params.password(), params.of("e").password()] == ["token 1 of me"] * 2
    assert masked == made
    assert "token" not in repr(params)
