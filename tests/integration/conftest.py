"""The operators between real servers: PostgreSQL's majors, moto and Ceph; and what must not be left of them."""

import functools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.members import Member
from airflow_pg_s3.core.repository.repository import read_manifest, read_members
from airflow_pg_s3.core.s3.requests import parse_uri
from airflow_pg_s3.core.workspace.janitor import VARIABLE
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from testkit.database_equality import compare_databases
from testkit.databases import create_hard_roles
from testkit.dumps import dump
from testkit.postgres import Cluster, installations
from testkit.s3 import S3Server
from tests.conftest import S3_SERVERS

# It would read the source of every function on the stack for the user agent, for 0.1 s of each task.
AwsGenericHook._get_caller = lambda self, target_function_name="execute": "Unknown"


def only_on(*servers: str) -> pytest.MarkDecorator:
    """Run a test with these S3 servers, rather than with each."""
    return pytest.mark.parametrize("s3", servers, indirect=True)


@pytest.fixture(scope="session")
def best(request: pytest.FixtureRequest) -> S3Server:
    """The server for much data: moto keeps all of it in memory, and each ranged GET costs the whole object."""
    server: S3Server = request.getfixturevalue(S3_SERVERS[-1])
    return server


# -- databases ----------------------------------------------------------------------------------------------------


@pytest.fixture
def new_name() -> Iterator[Callable[..., str]]:
    """(cluster, name=…) → a name for a database, which is dropped after the test, whoever created it."""
    named: list[tuple[Cluster, str]] = []

    def name_one(cluster: Cluster, name: str = "test") -> str:
        named.append((cluster, f"{name} {uuid.uuid4().hex[:8]}"))
        return named[-1][1]

    yield name_one
    for cluster, name in named:
        cluster.drop_database(name)


@pytest.fixture
def new_database(new_name: Callable[..., str]) -> Callable[..., str]:
    """(cluster, sql="", name=…, **options of CREATE DATABASE) → the name of a new database that holds `sql`."""

    def create(cluster: Cluster, sql: str = "", *, name: str = "test", **options: str) -> str:
        database = new_name(cluster, name)
        cluster.create_database(database, **options)
        if sql:
            cluster.psql(sql, database)
        return database

    return create


# -- connections --------------------------------------------------------------------------------------------------


class Connections:
    """Airflow's connections `pg_source`, `pg_target` and `aws`, and where the client programs are."""

    def __init__(self, environment: pytest.MonkeyPatch, s3: S3Server) -> None:
        self._environment = environment
        # The wheel's 16 and 18 are in no place that is searched by itself.
        self.set_option("client_path", ":".join(str(folder) for folder in installations().values()))
        self.set("aws", s3.airflow_connection())

    def source(self, cluster: Cluster, database: str, **extra: object) -> None:
        self.set("pg_source", cluster.airflow_connection(database, **extra))

    def target(self, cluster: Cluster, database: str, **extra: object) -> None:
        self.set("pg_target", cluster.airflow_connection(database, **extra))

    def set(self, conn_id: str, value: str) -> None:
        """Define any connection, by JSON or URI."""
        self._environment.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", value)

    def set_option(self, name: str, value: str) -> None:
        """Set an option of the section [pg_s3]."""
        self._environment.setenv(f"AIRFLOW__PG_S3__{name.upper()}", value)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> Connections:
    return Connections(monkeypatch, s3)


# -- the operators ------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(bucket: str) -> str:
    return f"s3://{bucket}/some/prefix"


@pytest.fixture
def spool_dir(tmp_path: Path) -> Iterator[Path]:
    """Where the operators work; empty after the test, or the test fails."""
    folder = tmp_path / "spool"
    folder.mkdir()
    yield folder
    assert [str(path) for path in folder.rglob("*")] == []
    assert processes_in(folder) == []


@pytest.fixture
def processes(spool_dir: Path) -> Callable[[], list[int]]:
    """() → pids of the processes that work in this test's `spool_dir`: pg_dump, pg_restore, the janitor."""
    return lambda: processes_in(spool_dir)


@pytest.fixture
def back_up(connections: Connections, repository: str, spool_dir: Path) -> Callable[..., dict]:
    """(cluster, database, **arguments of the operator) → what the backup task returns."""

    def run(cluster: Cluster, database: str, **arguments: object) -> dict:
        connections.source(cluster, database)
        defaults = {
            "task_id": "back_up",
            "repository": repository,
            "postgres_conn_id": "pg_source",
            "aws_conn_id": "aws",
            "spool_dir": str(spool_dir),
        }
        return PgS3BackupOperator(**defaults | arguments).execute(context={})

    return run


def back_up_once(cluster: Cluster, database: str, s3: S3Server, repository: str) -> dict:
    """For fixtures of a wider scope: what the backup task returns."""
    with pytest.MonkeyPatch.context() as environment:
        Connections(environment, s3).source(cluster, database)
        operator = PgS3BackupOperator(
            task_id="back_up", repository=repository, postgres_conn_id="pg_source", aws_conn_id="aws"
        )
        return operator.execute(context={})


@pytest.fixture
def restore(connections: Connections, spool_dir: Path) -> Callable[..., dict]:
    """(cluster, database, backup=URI, **arguments of the operator) → what the restore task returns.

    The database is both the connection's and named; with ``database=None`` the connection alone says it.
    """

    def run(cluster: Cluster, database: str, /, **arguments: object) -> dict:
        connections.target(cluster, database)
        defaults = {
            "task_id": "restore",
            "postgres_conn_id": "pg_target",
            "database": database,
            "aws_conn_id": "aws",
            "spool_dir": str(spool_dir),
        }
        return PgS3RestoreOperator(**defaults | arguments).execute(context={})

    return run


@pytest.fixture
def list_backups(connections: Connections, repository: str) -> Callable[..., list[dict]]:
    """(**arguments of the operator) → what the listing task returns."""

    def run(**arguments: object) -> list[dict]:
        defaults = {"task_id": "list", "repository": repository, "aws_conn_id": "aws"}
        return PgS3ListBackupsOperator(**defaults | arguments).execute(context={})

    return run


@pytest.fixture
def manifest_of(s3: S3Server) -> Callable[[dict], Manifest]:
    """(what the backup task returned) → its manifest."""
    return lambda result: read_manifest(s3.client(), result["uri"])[0]


@pytest.fixture
def members_of(s3: S3Server) -> Callable[[dict], list[Member]]:
    """(what the backup task returned) → its members."""

    def read(result: dict) -> list[Member]:
        bucket, _ = parse_uri(result["uri"], parameter="backup")
        return list(read_members(s3.client(), bucket, read_manifest(s3.client(), result["uri"])))

    return read


@pytest.fixture
def object_of(members_of: Callable[[dict], list[Member]]) -> Callable[[dict, str], str]:
    """(what the backup task returned, name of a table) → the key of the first object that holds its data."""

    def find(result: dict, table: str) -> str:
        member = next(m for m in members_of(result) if m.table is not None and m.table.name == table)
        key = member.pack or next(iter(member.chunks)).key
        return f"{result['key'].rpartition('/')[0]}/{key}"

    return find


@pytest.fixture
def leftovers(s3: S3Server, bucket: str) -> Callable[[], list[str]]:
    """() → the keys of everything in the bucket."""

    def look() -> list[str]:
        pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    return look


@pytest.fixture
def assert_restored(new_name: Callable[..., str], restore: Callable[..., dict]) -> Callable[..., dict]:
    """(source, database, target, backup, **arguments of the restore): restore it, and compare both databases."""

    def check(source: Cluster, database: str, target: Cluster, backup: dict, **arguments: object) -> dict:
        copy = new_name(target, "copy")
        if target is not source:
            create_hard_roles(target)
        done = restore(target, copy, backup=backup["uri"], **arguments)
        assert compare_databases(source.dsn(database), target.dsn(copy)) == []
        return done

    return check


# -- archives of other tools --------------------------------------------------------------------------------------

SMALL = """
create table accounts (id int primary key, name text, note text);
insert into accounts select i, 'name ' || i, md5(i::text) || repeat(chr(97 + i % 20), i % 50)
    from generate_series(1, 20000) i;
create table empty (i int);
create view rich as select * from accounts where id > 10;
create index on accounts (name);
create sequence counter; select setval('counter', 77);
"""


@pytest.fixture(scope="session")
def hard_archives(
    pg16: Cluster, portable_hard_database: Callable[[Cluster], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], bytes]:
    """format → the hard database's archive, made once."""
    made: dict[str, bytes] = {}
    folder = tmp_path_factory.mktemp("archives")

    def of(form: str) -> bytes:
        if form not in made:
            made[form] = dump(pg16, portable_hard_database(pg16), form, folder)
        return made[form]

    return of


@pytest.fixture
def put(s3: S3Server, bucket: str) -> Callable[..., str]:
    """(bytes, key="some/thing") → the URI of the object that holds them."""

    def store(data: bytes, key: str = "some/thing") -> str:
        s3.client().put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}/{key}"

    return store


@pytest.fixture(scope="session")
def small_template(pg16: Cluster, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The name of a small database that nobody changes, and its archives by format, each made once."""
    name = "small template"
    pg16.create_database(name)
    pg16.psql(SMALL, name)
    folder = tmp_path_factory.mktemp("small")

    @functools.cache
    def archive(form: str, *options: str) -> bytes:
        return dump(pg16, name, form, folder, *options)

    return SimpleNamespace(name=name, archive=archive)


@pytest.fixture
def small(pg16: Cluster, new_database: Callable[..., str], small_template: SimpleNamespace) -> SimpleNamespace:
    """A small database of the test's own, the SQL that made it, and its archives as it was at first, by format."""
    name = new_database(pg16, name="small", template=small_template.name)
    return SimpleNamespace(name=name, sql=SMALL, archive=small_template.archive)


def processes_in(folder: Path) -> list[int]:
    """Pids of the processes that were started in a workspace below `folder`, and of those workspaces' janitors."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            started_in = f"\0{VARIABLE}={folder}/".encode() in b"\0" + Path(f"/proc/{name}/environ").read_bytes()
            names_it = f"\0{folder}/".encode() in Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if started_in or names_it:
            found.append(int(name))
    return found
