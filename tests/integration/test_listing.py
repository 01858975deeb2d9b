"""The listing shows the complete backups, all of them, newest first, and nothing else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.manifest import Manifest
from airflow_pg_s3.core.repository import Repository
from lab.postgres import Cluster
from lab.s3 import S3Server
from tests.integration.conftest import only_on

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def id_at(when: datetime, number: int = 0) -> str:
    return f"{when:%Y%m%dT%H%M%SZ}-{number:06x}"


@pytest.fixture(scope="module")
def template(pg18: Cluster, moto: S3Server) -> Manifest:
    """The manifest of a real backup, of an almost empty database."""
    from airflow_pg_s3.core.manifest import parse
    from airflow_pg_s3.operators.backup import PgS3BackupOperator

    bucket = moto.create_bucket("template-of-listings")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW_CONN_PG", pg18.airflow_connection())
        environment.setenv("AIRFLOW_CONN_AWS", moto.airflow_connection())
        environment.setenv("AIRFLOW__PG_S3__CLIENT_PATH", str(pg18.pg_bin))
        made = PgS3BackupOperator(
            task_id="t", repository=f"s3://{bucket}", postgres_conn_id="pg", aws_conn_id="aws"
        ).execute(context={})
    body = moto.client().get_object(Bucket=bucket, Key=made["key"])["Body"].read()
    return parse(body, where=made["uri"])


@pytest.fixture
def put(s3: S3Server, bucket: str) -> Callable[..., None]:
    """(key, body=b"x"): store an object."""
    client = s3.client()
    return lambda key, body=b"x": client.put_object(Bucket=bucket, Key=key, Body=body)


@pytest.fixture
def put_backup(put, template: Manifest, repository: str) -> Callable[..., str]:
    """(database, time, number=0, **labels) → the id of a backup as a listing finds it, without its objects."""
    prefix = repository.split("/", 3)[3]

    def store(database: str, when: datetime, number: int = 0, **labels: str) -> str:
        backup_id = id_at(when, number)
        text = template.to_json().decode().replace(template.backup_id, backup_id)
        manifest = Manifest.model_validate_json(text)
        manifest = manifest.model_copy(update={"database": database, "created_at": when, "labels": labels})
        put(f"{prefix}/{database}/{backup_id}.json", manifest.to_json())
        return backup_id

    return store


def ids(rows: list[dict]) -> list[str]:
    return [row["backup_id"] for row in rows]


@only_on("best")
def test_more_backups_than_s3_lists_at_once_are_all_listed_newest_first(s3, put_backup, list_backups):
    times = [NOON + timedelta(hours=n) for n in range(1050)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda when: put_backup("app", when), times))
    assert ids(list_backups(database="app")) == made[::-1]
    assert ids(list_backups(database="app", limit=3)) == made[:-4:-1]
    assert ids(list_backups(database="app", before=times[2])) == made[1::-1]


@only_on("moto")
def test_a_row_says_what_the_backup_is(pg18: Cluster, new_database, back_up, list_backups, manifest_of):
    database = new_database(pg18, "CREATE TABLE t AS SELECT generate_series(1, 10) AS a")
    made = back_up(pg18, database, labels={"release": "42"})
    manifest = manifest_of(made)
    assert list_backups() == [
        {
            "uri": made["uri"],
            "key": made["key"],
            "database": database,
            "created_at": made["created_at"],
            "size": manifest.stored_bytes,
            "verified": False,
            "backup_id": made["backup_id"],
            "raw_bytes": made["raw_bytes"],
            "tables": 1,
            "rows": 10,
            "labels": {"release": "42"},
        }
    ]
    assert datetime.fromisoformat(made["created_at"]).tzinfo is not None
    assert made["uri"].endswith(f"/{made['backup_id']}.json")


def test_names_that_begin_alike_are_kept_apart(s3, put_backup, list_backups, repository: str):
    app, *_ = (put_backup(name, NOON) for name in ("app", "app_staging", "ap"))
    assert ids(list_backups(database="app")) == [app]
    assert [row["database"] for row in list_backups(database="app_staging")] == ["app_staging"]
    assert [row["database"] for row in list_backups(database="ap")] == ["ap"]
    # and so are repositories
    assert list_backups(repository=repository[:-1], fail_if_empty=False) == []
    assert list_backups(repository=f"{repository}/ap", fail_if_empty=False) == []
    assert list_backups(repository=f"{repository}/", database="app") == list_backups(database="app")


@only_on("moto")
def test_without_a_database_those_of_all_are_listed_newest_first(s3, put_backup, list_backups):
    put_backup("b", NOON, 1)
    put_backup("a", NOON + timedelta(hours=1), 2)
    put_backup("c", NOON + timedelta(hours=2), 3)
    put_backup("a", NOON - timedelta(hours=1), 4)
    assert [row["database"] for row in list_backups()] == ["c", "a", "b", "a"]


def test_incomplete_backups_are_never_listed(s3, put_backup, put, list_backups, repository: str):
    complete = put_backup("app", NOON)
    folder = f"{repository.split('/', 3)[3]}/app"
    later = [id_at(NOON + timedelta(hours=n), n) for n in range(1, 6)]
    put(f"{folder}/{later[0]}/pack-0001.tar.zst")  # killed, and its record removed by hand
    put(f"{folder}/{later[1]}/begun", b'{"instance": "somebody"}')  # being made
    put(f"{folder}/{later[2]}.verified.json", b"{}")  # all but the evidence was deleted
    put(f"{folder}/{later[3]}/{later[3]}.json", b"{}")  # not in its place
    put(f"{folder}/{later[4]}.json.tmp", b"{}")
    put(f"{folder}/notes.json", b"{}")
    put(f"{folder}/20261301T000000Z-00000g.json", b"{}")
    assert ids(list_backups()) == ids(list_backups(database="app")) == [complete]


@only_on("moto")
def test_a_backup_being_made_is_not_listed_until_it_is_committed(
    pg18: Cluster, s3, bucket: str, new_database, back_up, list_backups, leftovers, monkeypatch
):
    database = new_database(pg18, "CREATE TABLE t AS SELECT 1 AS a")
    seen = []
    put_new = Repository.put_new

    def look_before(self, key: str, *args: object) -> None:
        if key.endswith(".json"):
            seen.append((len(leftovers()), list_backups(fail_if_empty=False)))
        put_new(self, key, *args)

    monkeypatch.setattr(Repository, "put_new", look_before)
    made = back_up(pg18, database)
    ((objects, listed),) = seen
    assert objects > 1
    assert listed == []
    assert ids(list_backups()) == [made["backup_id"]]


@only_on("moto")
@pytest.mark.parametrize(
    "before",
    [
        NOON,
        NOON.astimezone(timezone(timedelta(hours=-8))),
        NOON.replace(tzinfo=None),
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:00",
        "2026-03-01T17:30:00+05:30",
        "2026-03-01 12:00",
    ],
    ids=str,
)
def test_before_is_a_time_in_utc_unless_it_says_otherwise(s3, put_backup, list_backups, before: datetime | str):
    earlier = put_backup("app", NOON - timedelta(seconds=1))
    put_backup("app", NOON)
    put_backup("app", NOON + timedelta(seconds=1))
    assert ids(list_backups(before=before)) == [earlier]


@only_on("moto")
def test_a_backup_is_not_before_itself(s3, put_backup, list_backups):
    first, second = (put_backup("app", NOON + timedelta(milliseconds=n)) for n in (1, 1500))
    (newest,) = list_backups(limit=1)
    assert newest["backup_id"] == second
    (previous,) = list_backups(before=newest["created_at"], limit=1)
    assert previous["backup_id"] == first
    assert list_backups(before=previous["created_at"], fail_if_empty=False) == []


@only_on("moto")
def test_labels_choose_the_backups_that_carry_all_of_them(s3, put_backup, list_backups):
    times = [NOON + timedelta(hours=n) for n in range(20)]
    made = [
        put_backup("app", when, stage="old" if n < 5 else "new", parity=str(n % 2)) for n, when in enumerate(times)
    ]
    put_backup("app", NOON + timedelta(days=2))
    assert ids(list_backups(labels={"stage": "old"})) == made[4::-1]
    assert ids(list_backups(labels={"stage": "old", "parity": "1"})) == [made[3], made[1]]
    assert ids(list_backups(labels={"stage": "old"}, limit=2)) == made[4:2:-1]
    assert list_backups(labels={"stage": "older"}, fail_if_empty=False) == []
    assert len(list_backups(labels={})) == 21


@only_on("moto")
def test_verified_says_whether_evidence_lies_beside_the_manifest(
    s3, put_backup, put, list_backups, repository: str
):
    folder = f"{repository.split('/', 3)[3]}/app"
    older, newer = put_backup("app", NOON), put_backup("app", NOON + timedelta(days=1))
    put(f"{folder}/{older}.verified.json", b'{"outcome": "verified"}')
    assert [(row["backup_id"], row["verified"]) for row in list_backups()] == [(newer, False), (older, True)]
    assert ids(list_backups(verified_only=True)) == [older]


@only_on("moto")
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"database": "other"},
        {"before": "2020-01-01"},
        {"verified_only": True},
        {"pattern": "*.dump"},
        {"labels": {"release": "43"}},
    ],
    ids=str,
)
def test_that_there_is_none_is_an_error_unless_it_may_be_so(s3, put_backup, list_backups, repository, arguments):
    if arguments:
        put_backup("app", NOON)
    with pytest.raises(AirflowFailException, match=f"there is no backup in {repository}.*prefix") as raised:
        list_backups(**arguments)
    for value in arguments.values():
        assert value is True or str(value) in str(raised.value)
    assert list_backups(**arguments, fail_if_empty=False) == []


@only_on("moto")
def test_archives_of_other_tools_are_listed_by_a_pattern_of_their_names(
    s3: S3Server, put_backup, put, list_backups, repository: str, bucket: str
):
    prefix = repository.split("/", 3)[3]
    put_backup("app", NOON)
    names = ["backup-2026-01.tar.gz", "old/backup-2025-12.tar.gz", "old/er/backup-2025-11.tar.gz"]
    for name in [*names, "backup.tar.gz.part", "notes.txt", "old/dump.sql.gz"]:
        put(f"{prefix}/{name}", name.encode())
    put(f"{prefix}-else/backup.tar.gz")
    # S3's times have whole seconds: equal ones are in the order of their keys, backwards
    times = {
        e["Key"]: e["LastModified"] for e in s3.client().list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    }

    def listed(pattern: str) -> set[str]:
        rows = list_backups(pattern=pattern)
        assert rows == sorted(rows, key=lambda row: (row["created_at"], row["key"]), reverse=True)
        for row in rows:
            name = row["key"].removeprefix(f"{prefix}/")
            assert row == {
                "uri": f"s3://{bucket}/{prefix}/{name}",
                "key": f"{prefix}/{name}",
                "database": None,
                "created_at": times[f"{prefix}/{name}"].astimezone(UTC).isoformat(),
                "size": len(name),
                "verified": False,
            }
        return {row["key"].removeprefix(f"{prefix}/") for row in rows}

    assert listed("*.tar.gz") == set(names)
    assert listed("old/*.tar.gz") == set(names[1:])
    assert listed("backup-2026-*.tar.gz") == {names[0]}
    assert listed("*.sql.gz") == {"old/dump.sql.gz"}
    assert len(list_backups(pattern="*.tar.gz", limit=2)) == 2
    assert list_backups(pattern="*.tar.gz", before="2020-01-01", fail_if_empty=False) == []


@only_on("moto")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "limit must be at least 1, not 0"),
        ({"limit": "few"}, "limit must be a number, not 'few'"),
        ({"before": "yesterday"}, "before must be a time such as .*, not 'yesterday'"),
        ({"repository": "/local/path"}, "repository must look like s3://bucket/prefix"),
        ({"repository": "s3://no-such-bucket-here/x"}, "bucket 'no-such-bucket-here' does not exist"),
        ({"aws_conn_id": "missing"}, "connection 'missing' does not exist"),
    ],
    ids=str,
)
def test_what_cannot_work_is_said_in_one_line(s3, put_backup, list_backups, arguments: dict, message: str):
    put_backup("app", NOON)
    with pytest.raises(AirflowFailException, match=message) as raised:
        list_backups(**arguments)
    assert "\n" not in str(raised.value)
