"""The listing shows the complete backups, all of them, newest first, and nothing else."""

import functools
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.reporting import human
from airflow_pg_s3.core.repository import catalog, listing
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.core.s3 import requests as core_s3
from airflow_pg_s3.core.s3.errors import AccessDenied
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.sensors.freshness import PgS3BackupFreshnessSensor
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import only_on
from tests.support.stored_backups import CHECKED, FAILED, RESTORED, UNSURE, Shelf, id_at

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def shelf(s3: S3Server, repository: str) -> Shelf:
    return Shelf(s3.client(), repository)


@pytest.fixture
def put(s3: S3Server, bucket: str) -> Callable[..., None]:
    """(key, body=b"x"): store an object."""
    client = s3.client()
    return lambda key, body=b"x": client.put_object(Bucket=bucket, Key=key, Body=body)


@pytest.fixture
def put_backup(shelf: Shelf) -> Callable[..., str]:
    """(database, time, number=0, **labels) → the id of a backup as a listing finds it, without its objects."""
    return shelf.put_backup


@pytest.fixture(autouse=True)
def python_log(monkeypatch) -> None:
    """Let the operator log where caplog looks."""
    monkeypatch.setattr(PgS3ListBackupsOperator, "log", logging.getLogger("listing"))


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
            "stored_bytes": manifest.stored_bytes,
            "verified": False,
            "verification": None,
            "backup_id": made["backup_id"],
            "new_stored_bytes": manifest.new_stored_bytes,
            "raw_bytes": made["raw_bytes"],
            "tables": 1,
            "rows": 10,
            "left_out_by": [],
            "duration_seconds": made["duration_seconds"],
            "encrypted": False,
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
    put_new = core_s3.put_if_absent

    def look_before(client, bucket: str, key: str, *args: object) -> None:
        if key.endswith(".json"):
            seen.append((len(leftovers()), list_backups(fail_if_empty=False)))
        put_new(client, bucket, key, *args)

    monkeypatch.setattr(core_s3, "put_if_absent", look_before)
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


@pytest.fixture
def put_evidence(shelf: Shelf) -> Callable[..., None]:
    """(database, id, *(outcome, level), of=id): store evidence as verifications write it."""
    return functools.partial(shelf.put_evidence, at=NOON + timedelta(days=9))


@only_on("moto")
@pytest.mark.parametrize(
    ("verifications", "verified"),
    [
        ([RESTORED], True),
        ([FAILED, RESTORED], False),
        ([RESTORED, FAILED], True),
        ([("failed", "checksum"), RESTORED], False),
        ([UNSURE, RESTORED], True),
        ([UNSURE], False),
        ([CHECKED], False),
        ([CHECKED, RESTORED], True),
    ],
    ids=str,
)
def test_verified_is_what_a_restore_has_shown_unless_something_failed_since(
    s3, put_backup, put_evidence, list_backups, verifications: list, verified: bool
):
    made = put_backup("app", NOON)
    put_evidence("app", made, *verifications)
    (row,) = list_backups()
    outcome, level = verifications[0]
    assert (row["verified"], row["verification"]) == (
        verified,
        {"outcome": outcome, "level": level, "at": "2026-03-10T12:00:00+00:00"},
    )
    assert ids(list_backups(verified_only=True, fail_if_empty=False)) == [made] * verified


@only_on("moto")
def test_evidence_that_is_damaged_or_of_another_manifest_is_none_and_is_warned_of(
    s3, put_backup, put, put_evidence, list_backups, repository: str, caplog
):
    folder = f"{repository.split('/', 3)[3]}/app"
    damaged, foreign, replaced, good = (put_backup("app", NOON + timedelta(hours=n), n) for n in range(4))
    put(f"{folder}/{damaged}.verified.json", b'{"outcome": "verified"}')
    put_evidence("app", foreign, RESTORED, of=good)
    put_evidence("app", replaced, RESTORED)
    put_backup("app", NOON + timedelta(hours=2), 2, changed="later")
    put_evidence("app", good, RESTORED)
    with caplog.at_level("WARNING"):
        rows = list_backups()
    assert [(row["backup_id"], row["verified"]) for row in rows if row["verified"]] == [(good, True)]
    assert [row["verification"] for row in rows[1:]] == [None] * 3
    for backup_id in (damaged, foreign, replaced):
        assert f"not verified: the evidence of {repository}/app/{backup_id}.json is damaged" in caplog.text
    assert ids(list_backups(verified_only=True, limit=1)) == [good]


@only_on("moto")
def test_the_newest_verified_of_many_is_found_without_reading_those_that_have_no_evidence(
    s3, put_backup, put_evidence, list_backups, monkeypatch
):
    made = [put_backup("app", NOON + timedelta(hours=n), n) for n in range(60)]
    for backup_id, found in zip(made, [RESTORED] * 2 + [FAILED] * 30, strict=False):
        put_evidence("app", backup_id, found)
    read = []

    def see(client, uri):
        read.append(uri)
        return read_manifest(client, uri)

    monkeypatch.setattr(catalog, "read_manifest", see)
    assert ids(list_backups(verified_only=True, limit=1)) == [made[1]]
    assert len(read) == 32
    assert ids(list_backups(limit=1)) == [made[59]]
    assert len(read) == 33


@pytest.mark.parametrize("s3", ["moto", "ceph"], indirect=True)
def test_a_limit_finds_the_same_backups_as_the_whole_list_has(
    s3, put_backup, put, list_backups, monkeypatch, repository
):
    monkeypatch.setattr(listing, "_KEYS_A_PAGE", 5)  # so that few backups are many pages
    folder = f"{repository.split('/', 3)[3]}/app"
    now = datetime.now(UTC)
    made = [put_backup("app", now + timedelta(days=1) - timedelta(hours=n * n), n) for n in range(20)]
    for backup_id in made:
        put(f"{folder}/{backup_id}/pack-0001.tar.zst")
    for backup_id in made[::2]:
        put(f"{folder}/{backup_id}.verified.json")
    put(f"{folder}/notes.txt")
    put_backup("other", now)
    assert ids(list_backups(database="app")) == made
    assert ids(list_backups(database="app", limit=20)) == made
    assert ids(list_backups(database="app", limit=3)) == made[:3]
    assert ids(list_backups(database="app", before=now - timedelta(days=2), limit=2)) == made[9:11]
    assert ids(list_backups(limit=7)) == ids(list_backups())[:7]


@only_on("moto")
def test_the_log_shows_a_table(s3, put_backup, put_evidence, list_backups, repository, caplog):
    old, new = put_backup("app", NOON), put_backup("app", NOON + timedelta(days=1), release="42", stage="prod")
    put_evidence("app", old, RESTORED)
    with caplog.at_level("INFO"):
        listed = list_backups()
    first, header, of_them_all, newer, older, stored = caplog.messages
    assert first == f"number of backups: 2, in {repository}"
    assert re.split("  +", header) == [
        "database", "id", "made (UTC)", "age", "took", "size", "new", "raw size", "tables", "rows", "encrypted",
        "verification", "labels",
    ]  # fmt: skip
    uri = of_them_all.removesuffix(":").replace("<database>", "app")
    assert [uri.replace("<id>", backup_id) for backup_id in (new, old)] == [row["uri"] for row in listed]
    assert f"{NOON:%Y-%m-%d} 12:00" in older
    assert max(map(len, (header, newer, older))) < 165
    assert stored == f"these have stored {human(sum(row['new_stored_bytes'] for row in listed))}"
    assert [line.index(backup_id) for line, backup_id in ((newer, new), (older, old))] == [header.index("id ")] * 2
    place = header.index("verification")
    assert re.fullmatch(r"not verified +release=42, stage=prod", newer[place:])
    assert re.fullmatch(r"verified \d+ d ago", older[place:])


@only_on("moto")
def test_a_limited_list_does_not_look_like_all_there_is(s3, put_backup, list_backups, repository, caplog):
    put_backup("app", NOON)
    put_backup("app", NOON + timedelta(days=1))
    with caplog.at_level("INFO"):
        list_backups(limit=1)
        list_backups(limit=3)
    assert [message for message in caplog.messages if message.endswith(f" in {repository}")] == [
        f"the newest 1 of the backups in {repository}",
        f"number of backups: 2, in {repository}",
    ]


@only_on("moto")
def test_several_repositories_are_listed_in_one_table(s3, put_backup, list_backups, repository, caplog):
    put_backup("app", NOON)
    with caplog.at_level("INFO"):
        listed = list_backups(repository=[repository, f"{repository}/none", repository])
    assert len(listed) == 2
    assert len([line for line in caplog.messages if line.startswith("database ")]) == 1


@only_on("moto")
def test_a_manifest_that_may_not_be_read_is_an_error_and_not_an_empty_list(
    s3, put_backup, list_backups, monkeypatch
):
    put_backup("app", NOON)

    def refuse(*_):
        raise AccessDenied("S3 refuses access to bucket 'x' (AccessDenied): check the AWS connection's rights")

    monkeypatch.setattr(catalog, "read_manifest", refuse)
    with pytest.raises(AirflowFailException, match="S3 refuses access"):
        list_backups(fail_if_empty=False)


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
                "stored_bytes": len(name),
                "verified": False,
                "verification": None,
            }
        return {row["key"].removeprefix(f"{prefix}/") for row in rows}

    assert listed("*.tar.gz") == set(names)
    assert listed("old/*.tar.gz") == set(names[1:])
    assert listed("backup-2026-*.tar.gz") == {names[0]}
    assert listed("*.sql.gz") == {"old/dump.sql.gz"}
    assert len(list_backups(pattern="*.tar.gz", limit=2)) == 2
    assert list_backups(pattern="*.tar.gz", before="2020-01-01", fail_if_empty=False) == []
    for asked in ({"database": "app"}, {"labels": {"release": "42"}}, {"verified_only": True}):
        with pytest.raises(AirflowFailException, match=f"{next(iter(asked))} cannot be combined with pattern"):
            list_backups(pattern="*.tar.gz", **asked)


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


@only_on("ceph")
def test_wrong_credentials_are_no_empty_list(s3: S3Server, connections, list_backups, repository: str):
    connections.set("aws", s3.airflow_connection().replace(s3.access_key, "AKIAWRONG"))
    with pytest.raises(AirflowFailException, match="S3 refuses access to bucket"):
        list_backups(fail_if_empty=False)
    sensor = PgS3BackupFreshnessSensor(
        task_id="t", repository=repository, database="app", max_age=timedelta(hours=1), aws_conn_id="aws"
    )
    with pytest.raises(AirflowFailException, match="S3 refuses access to bucket"):
        sensor.execute({})
