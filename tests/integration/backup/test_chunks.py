"""What has not changed is stored once, and every backup is complete by itself."""

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pyrage
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from backports import zstd

from airflow_pg_s3.core.repository.backup_id import time_of
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster
from testkit.s3 import S3Server
from tests.integration.conftest import only_on
from tests.support.sampling import sample

# Random text: 70 bytes a row, 14 MB, some ten chunks.
HISTORY = """
create table history (id int, noise text);
insert into history select i, md5(i::text) || md5((i * 7)::text) from generate_series(1, 200000) i;
create table small as select 1 as i;
"""
CHANGES = {
    # what happens during the day: SQL, and the most chunks that are new the next night
    "nothing": ("select 1", 0),
    "1 % appended": (
        "insert into history select i, md5((i * 3)::text) || md5(i::text) from generate_series(200001, 202000) i",
        2,
    ),
    "a row deleted in the middle": ("delete from history where id = 100000", 2),
    "rewritten as it was": ("vacuum full history", 0),
    "another table": ("create table other as select i, md5(i::text) from generate_series(1, 30000) i", 2),
    "the table renamed": ("alter table history rename to past; alter table past add column c int", 99),
}


@pytest.fixture(autouse=True)
def logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operator log where caplog looks."""
    monkeypatch.setattr(PgS3BackupOperator, "log", logging.getLogger("backup"))


@pytest.fixture
def history(pg18: Cluster, new_database: Callable[..., str]) -> str:
    return new_database(pg18, HISTORY)


@pytest.fixture
def comes_back(pg18: Cluster, restore, new_name) -> Callable[..., None]:
    """(database, backup): restores it, and compares."""

    def check(database: str, made: dict, **arguments: object) -> None:
        copy = new_name(pg18)
        restore(pg18, copy, backup=made["uri"], **arguments)
        assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []

    return check


@pytest.mark.parametrize("change", sample(list(CHANGES), 3, "second night"))
@only_on("moto")
def test_the_second_night_stores_what_has_changed(
    pg18: Cluster, history: str, back_up, manifest_of, comes_back, leftovers, change: str
):
    sql, most = CHANGES[change]
    first = back_up(pg18, history)
    assert first["new_chunks"] == first["chunks"] > 5
    assert first["new_stored_bytes"] == first["stored_bytes"]
    pg18.psql(sql, history)
    second = back_up(pg18, history)
    assert second["new_chunks"] <= most
    manifest = manifest_of(second)
    ours = [key for key in leftovers() if f"/{second['backup_id']}/" in key and not key.endswith("/settled")]
    runs = sum(last - begin + 1 for begin, last in manifest.runs.get(second["backup_id"], []))
    assert len(ours) == 1 + len(manifest.packs) + runs
    assert (second["stored_bytes"], second["new_stored_bytes"]) == (
        manifest.stored_bytes,
        manifest.new_stored_bytes,
    )
    if most < 99:
        assert set(manifest.runs) >= {first["backup_id"]}
        assert second["new_stored_bytes"] < second["stored_bytes"] * (0.01 if most == 0 else 0.35)
    comes_back(history, second)


def test_a_backup_needs_of_others_nothing_but_the_runs_that_it_names(
    pg18: Cluster, history: str, back_up, manifest_of, comes_back, leftovers, s3: S3Server, bucket: str
):
    first = back_up(pg18, history)
    pg18.psql("insert into history select i, md5(i::text) from generate_series(1, 30000) i", history)
    second = back_up(pg18, history)
    pg18.psql("delete from history where id = 5", history)
    third = back_up(pg18, history)
    base = third["key"].rpartition("/")[0]
    named = {f"{base}/{key}" for key in manifest_of(third).object_keys()} | {third["key"]}
    assert {first["backup_id"], second["backup_id"]} & set(manifest_of(third).runs)
    for key in set(leftovers()) - named:
        s3.client().delete_object(Bucket=bucket, Key=key)
    assert set(leftovers()) == named
    comes_back(history, third)


@only_on("moto")
def test_what_comes_twice_within_a_backup_is_stored_once(pg18: Cluster, history: str, back_up, comes_back):
    alone = back_up(pg18, history)
    pg18.psql("create table again as table history", history)
    twice = back_up(pg18, history, full=True)
    assert (twice["chunks"], twice["new_chunks"]) == (alone["chunks"], alone["chunks"])
    assert twice["stored_bytes"] < alone["stored_bytes"] * 1.01
    comes_back(history, twice)


@only_on("moto")
def test_chunks_are_shared_between_backups_for_the_same_recipients_only(
    pg18: Cluster, history: str, back_up, comes_back, connections
):
    identity, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    connections.set("age", json.dumps({"conn_type": "generic", "password": str(identity)}))
    age_recipient, other_recipient = str(identity.to_public()), str(other.to_public())
    clear = back_up(pg18, history)
    ours = back_up(pg18, history, age_recipients=[age_recipient])
    assert ours["new_chunks"] == ours["chunks"] == clear["chunks"]
    both = back_up(pg18, history, age_recipients=[age_recipient, other_recipient])
    assert both["new_chunks"] == both["chunks"]
    # In whatever order, and with other backups between.
    again = back_up(pg18, history, age_recipients=[other_recipient, age_recipient])
    assert again["new_chunks"] == 0
    again = back_up(pg18, history, age_recipients=[age_recipient])
    assert again["new_chunks"] == 0
    assert back_up(pg18, history)["new_chunks"] == 0
    comes_back(history, again, age_identity_conn_id="age")


@only_on("moto")
def test_full_stores_all_anew(
    pg18: Cluster, history: str, back_up, comes_back, s3: S3Server, bucket: str, leftovers
):
    first = back_up(pg18, history)
    full = back_up(pg18, history, full=True)
    assert full["new_chunks"] == first["chunks"]
    after = back_up(pg18, history)
    assert after["new_chunks"] == 0
    # A run that rots harms nothing from the next full backup on.
    for key in leftovers():
        if f"/{first['backup_id']}/" in key:
            s3.client().delete_object(Bucket=bucket, Key=key)
    comes_back(history, after)


@only_on("moto")
@pytest.mark.parametrize(("days", "is_full"), [(29, False), (30, True)])
def test_what_is_older_than_full_every_is_not_referred_to(
    pg18: Cluster, history: str, back_up, s3: S3Server, bucket: str, leftovers, days: int, is_full: bool, caplog
):
    first = back_up(pg18, history)
    then = time_of(first["backup_id"]) - timedelta(days=days, minutes=1)
    make_older(s3, bucket, leftovers(), first["backup_id"], f"{then:%Y%m%dT%H%M%SZ}-000000")
    caplog.set_level(logging.INFO)
    second = back_up(pg18, history)
    assert (second["new_chunks"] == second["chunks"]) == is_full
    said = f"refers to what was stored on {then:%Y-%m-%d}, and full_every is 30 days"
    assert (said in caplog.text) == is_full
    assert ("chunks of earlier backups: what has not changed since is not stored again" in caplog.text) != is_full
    assert back_up(pg18, history, full_every=timedelta(days=days + 2))["new_chunks"] == 0
    assert back_up(pg18, history, full_every=timedelta(0))["new_chunks"] == second["chunks"]


def make_older(s3: S3Server, bucket: str, keys: list[str], backup_id: str, older_id: str) -> None:
    """Give a backup another id, as if it had been made then."""
    client = s3.client()
    for key in keys:
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        if key.endswith(".json"):
            manifest = Manifest.model_validate_json(body.replace(backup_id.encode(), older_id.encode()))
            members_key = key.removesuffix(".json") + "/members.json.zst"
            members = client.get_object(Bucket=bucket, Key=members_key)["Body"].read()
            members = recompressed(members, backup_id, older_id)
            record = manifest.members.model_copy(
                update={"stored_bytes": len(members), "sha256": hashlib.sha256(members).hexdigest()}
            )
            body = manifest.model_copy(update={"members": record}).to_json()
        elif key.endswith("/members.json.zst"):
            body = recompressed(body, backup_id, older_id)
        client.put_object(Bucket=bucket, Key=key.replace(backup_id, older_id), Body=body)
        client.delete_object(Bucket=bucket, Key=key)


@only_on("moto")
def test_under_object_lock_all_is_stored_anew_and_the_log_says_why(
    pg18: Cluster, history: str, back_up, s3: S3Server, caplog
):
    caplog.set_level(logging.INFO)
    client = s3.client()
    client.create_bucket(Bucket="locked-chunks", ObjectLockEnabledForBucket=True)
    first, second = (back_up(pg18, history, repository="s3://locked-chunks/p") for _ in range(2))
    assert second["new_chunks"] == first["chunks"]
    assert "all is stored anew, as the bucket has Object Lock" in caplog.text
    # In any bucket, if it is asked for.
    until = datetime.now(UTC) + timedelta(hours=1)
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    third = back_up(pg18, history, repository="s3://locked-chunks/q", s3_extra_args=lock)
    assert third["new_chunks"] == third["chunks"]


@only_on("moto")
@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_run_that_is_gone_is_stored_anew(
    pg18: Cluster, history: str, back_up, object_of, comes_back, s3: S3Server, bucket: str, damage: str
):
    first = back_up(pg18, history)
    key, client = object_of(first, "history"), s3.client()
    if damage == "missing":
        client.delete_object(Bucket=bucket, Key=key)
    else:
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        client.put_object(Bucket=bucket, Key=key, Body=body[: len(body) // 2])
    second = back_up(pg18, history)
    assert 0 < second["new_chunks"] <= second["chunks"]
    comes_back(history, second)


@only_on("moto")
def test_a_list_of_members_that_cannot_be_read_means_that_nothing_is_known(
    pg18: Cluster, history: str, back_up, s3: S3Server, bucket: str, caplog
):
    first = back_up(pg18, history)
    key = first["key"].removesuffix(".json") + "/members.json.zst"
    s3.client().put_object(Bucket=bucket, Key=key, Body=b"something else")
    second = back_up(pg18, history)
    assert second["new_chunks"] == second["chunks"]
    assert f"backup {first['backup_id']} is not referred to: " in caplog.text


@only_on("moto")
def test_a_backup_without_a_table_does_not_make_it_unknown(pg18: Cluster, history: str, back_up):
    first = back_up(pg18, history)
    assert first["chunks"] > 0
    assert back_up(pg18, history, pg_dump_options=["--exclude-table-data=history"])["chunks"] == 0
    assert back_up(pg18, history)["new_chunks"] == 0


@only_on("moto")
@pytest.mark.parametrize("value", [timedelta(days=-1), 30, None], ids=str)
def test_full_every_is_a_time(pg18: Cluster, history: str, back_up, value: object):
    with pytest.raises(AirflowFailException, match="full_every must be a timedelta of zero or more, not"):
        back_up(pg18, history, full_every=value)


def recompressed(members: bytes, backup_id: str, older_id: str) -> bytes:
    return zstd.compress(zstd.decompress(members).replace(backup_id.encode(), older_id.encode()))
