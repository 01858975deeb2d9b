"""A dump's definitions may hold passwords of other servers: they reach no log, error, result or evidence."""

import json
from collections.abc import Callable, Iterator

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_pg_s3.core.errors import ClientProgramError, ServerError
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.verify import restore_test
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.dumps import dump
from testkit.postgres import Cluster
from testkit.s3 import S3Server

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

MARK = "SECRETMARK"
SUBSCRIPTION = f"""
create subscription s connection E'host=nowhere password=''{MARK}\\n{MARK}''' publication p
    with (connect = false, slot_name = none);
"""
MAPPINGS = f"""
create foreign data wrapper elsewhere options (debug '{MARK}');
create server other foreign data wrapper elsewhere options (host 'nowhere', token E'{MARK}\\n{MARK}');
create user mapping for public server other options ("user" 'me', password E'{MARK}\\\\''{MARK}');
create foreign table far (i int options (key '{MARK}')) server other options (path '{MARK}');
create view near as select 'host=h password={MARK}' as conninfo, 1 as other;
"""
TAMPERED = f"""
alter foreign data wrapper elsewhere options (set debug 'other {MARK}');
alter server other options (set token 'other {MARK}');
alter user mapping for public server other options (set password 'other {MARK}');
alter foreign table public.far options (set path 'other {MARK}');
create or replace view public.near as select 'host=h password=other {MARK}' as conninfo, 2 as other;
alter subscription s connection 'host=nowhere password=other_{MARK}';
"""
REFUSE = """
create function refuse() returns event_trigger language plpgsql
    as $$ begin raise exception 'not today'; end $$;
create event trigger refuse on ddl_command_end when tag in ('{tag}') execute function refuse();
"""


@pytest.fixture
def source(pg16: Cluster, new_database: Callable[..., str]) -> Iterator[Callable[[str], str]]:
    """(commands) → a database that has run them."""
    made = []

    def make(commands: str) -> str:
        made.append(new_database(pg16, commands, name="secretive"))
        return made[-1]

    yield make
    for database in made:
        pg16.psql("drop subscription if exists s", database)


@pytest.fixture(scope="module")
def weak(pg16: Cluster) -> Iterator[dict[str, str]]:
    """A role that is no superuser, for `airflow_connection`."""
    pg16.psql("create role weak login createdb password 'x'; grant pg_read_all_data to weak")
    yield {"login": "weak", "password": "x"}
    pg16.psql("drop owned by weak; drop role weak")


@pytest.fixture
def become_weak(weak: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """() → from now on, all connections that Airflow has are those of the weak role."""

    def become() -> None:
        real = Cluster.airflow_connection
        monkeypatch.setattr(
            Cluster,
            "airflow_connection",
            lambda self, database, **extra: json.dumps(json.loads(real(self, database, **extra)) | weak),
        )

    return become


@pytest.fixture
def assert_untold(capfd, caplog, s3: S3Server, bucket: str) -> Callable[..., None]:
    """(what the task returned or raised): neither that nor logs nor manifests nor evidence hold the mark."""

    def check(*said: object) -> None:
        captured = capfd.readouterr()
        client = s3.client()
        objects = [
            client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read().decode()
            for found in client.list_objects_v2(Bucket=bucket)["Contents"]
            if found["Key"].endswith(".json")
        ]
        texts = [captured.out, captured.err, caplog.text, *objects, *map(repr, said), *map(str, said)]
        for text in texts:
            assert MARK not in text

    return check


@pytest.fixture
def verify(connections, pg16: Cluster, spool_dir) -> Callable[..., dict]:
    """(URI, on=…) → what the verifying task returns."""

    def run(uri: str, *, on: Cluster | None) -> dict:
        connections.set("pg_scratch", pg16.airflow_connection("postgres"))
        where = {"postgres_conn_id": "pg_scratch"} if on else {}
        return PgS3VerifyOperator(
            task_id="verify", backup=uri, aws_conn_id="aws", spool_dir=str(spool_dir), **where
        ).execute(context={})

    return run


def evidence(s3: S3Server, made: dict) -> dict:
    bucket, key = made["uri"].removeprefix("s3://").split("/", 1)
    assert read_manifest(s3.client(), made["uri"])
    body = s3.client().get_object(Bucket=bucket, Key=key.replace(".json", ".verified.json"))["Body"].read()
    return json.loads(body)["verifications"][0]


def test_a_subscription_that_may_not_be_restored_is_told_without_its_password(
    pg16: Cluster, source, back_up, restore, new_name, verify, become_weak, assert_untold, s3: S3Server
) -> None:
    made = back_up(pg16, source(SUBSCRIPTION))
    become_weak()
    with pytest.raises(ClientProgramError, match="Command was: CREATE SUBSCRIPTION s CONNECTION") as restored:
        restore(pg16, new_name(pg16), backup=made["uri"], no_owner=True)
    with pytest.raises(AirflowException, match="permission denied to create subscription") as verified:
        verify(made["uri"], on=pg16)
    assert "CREATE SUBSCRIPTION s CONNECTION" in evidence(s3, made)["reason"]
    assert_untold(restored.value, verified.value)


@pytest.mark.parametrize(
    "tag", ["CREATE FOREIGN DATA WRAPPER", "CREATE SERVER", "CREATE USER MAPPING", "CREATE FOREIGN TABLE"]
)
def test_options_of_what_cannot_be_restored_are_not_told(
    pg16: Cluster, source, new_database, back_up, restore, assert_untold, tag: str
) -> None:
    made = back_up(pg16, source(MAPPINGS))
    target = new_database(pg16, REFUSE.format(tag=tag))
    with pytest.raises(ServerError, match="not today") as ours:
        restore(pg16, target, backup=made["uri"], if_exists="clean")
    with pytest.raises(ClientProgramError, match=f"(?s)not today.*Command was: {tag}") as raised:
        restore(pg16, target, backup=made["uri"], if_exists="clean", single_transaction=False)
    assert_untold(ours.value, raised.value)


def test_what_a_managed_service_leaves_out_is_told_without_passwords(
    pg16: Cluster, source, back_up, restore, new_name, become_weak, assert_untold
) -> None:
    made = back_up(pg16, source(SUBSCRIPTION))
    become_weak()
    done = restore(pg16, new_name(pg16), backup=made["uri"], managed_service=True)
    assert any("SUBSCRIPTION s" in warning for warning in done["warnings"])
    assert_untold(done)


@pytest.mark.parametrize("throwaway", [True, False])
def test_definitions_that_differ_are_named_in_the_evidence_without_what_opens_other_servers(
    pg16: Cluster, source, back_up, verify, assert_untold, monkeypatch, s3: S3Server, throwaway: bool
) -> None:
    made = back_up(pg16, source(MAPPINGS + SUBSCRIPTION))
    real = restore_test.compare

    def tampered(archive, restored, **arguments):
        with restored.params.connect() as connection:
            connection.execute(TAMPERED)
        return real(archive, restored, **arguments)

    monkeypatch.setattr(restore_test, "compare", tampered)
    with pytest.raises(AirflowFailException, match="FAILED verification") as raised:
        verify(made["uri"], on=None if throwaway else pg16)
    differences = {found["name"]: found["detail"] for found in evidence(s3, made)["differences"]}
    assert set(differences) == {
        "FOREIGN DATA WRAPPER elsewhere", "SERVER other", "USER MAPPING USER MAPPING public SERVER other",
        "FOREIGN TABLE public.far", "VIEW public.near", "SUBSCRIPTION s",
    }  # fmt: skip
    mapping = differences["USER MAPPING USER MAPPING public SERVER other"]
    assert "-    password E(not shown)" in mapping
    assert "+    password (not shown)" in mapping
    assert '"user"' not in mapping
    # What follows in other lines is told.
    assert "-    1 AS other;" in differences["VIEW public.near"]
    assert_untold(raised.value)


def test_psql_quotes_no_password_of_a_plain_dump(
    pg16: Cluster, source, restore, new_name, put, tmp_path, assert_untold
) -> None:
    plain = dump(pg16, source(SUBSCRIPTION), "plain", tmp_path)
    broken = plain.replace(b" PUBLICATION p ", b" PUBLICATIONS p ")
    assert broken != plain
    with pytest.raises(ClientProgramError, match="syntax error") as raised:
        restore(pg16, new_name(pg16), backup=put(broken), allow_unsafe_psql=True)
    put(b"{}", "x.json")
    assert_untold(raised.value)


def test_rows_of_insert_commands_are_not_told(
    pg16: Cluster, source, restore, new_name, put, tmp_path, assert_untold
) -> None:
    rows = f"create table t (i int, a text); insert into t values (1, '{MARK}');"
    database = source(f"{rows} alter table t add constraint never check (i > 5) not valid")
    pg16.psql("update pg_constraint set convalidated = true where conname = 'never'", database)
    custom = dump(pg16, database, "custom", tmp_path, "--inserts")
    with pytest.raises(ClientProgramError, match=r"(?s)never.*Command was: INSERT INTO public\.t") as raised:
        restore(pg16, new_name(pg16), backup=put(custom))
    put(b"{}", "x.json")
    assert_untold(raised.value)


@pytest.mark.parametrize(
    "command",
    [f"alter role nobody_there password '{MARK}' nonsense", f"alter role postgres password\n'{MARK}' 'x'"],
)
def test_commands_of_the_users_own_are_not_quoted_with_their_passwords(
    pg16: Cluster, source, back_up, restore, new_name, assert_untold, command: str
) -> None:
    made = back_up(pg16, source("create table t (i int)"))
    with pytest.raises(ServerError, match="42601") as raised:
        restore(pg16, new_name(pg16), backup=made["uri"], post_restore_sql=command)
    assert_untold(raised.value)
