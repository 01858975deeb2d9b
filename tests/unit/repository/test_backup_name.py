"""A backup is named by latest, by a time or by the beginning of its id; what is not clear is refused."""

import logging
import re
from datetime import UTC, datetime, timedelta

import pytest

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.repository.backup_name import resolve
from airflow_pg_s3.core.repository.repository import Repository
from tests.support.stored_backups import FAILED, RESTORED, Shelf

NIGHT = datetime(2026, 11, 20, 3, tzinfo=UTC)
LOG = logging.getLogger("names")


@pytest.fixture
def uri(bucket):
    return f"s3://{bucket}/production"


@pytest.fixture
def shelf(s3_client, uri):
    return Shelf(s3_client, uri)


@pytest.fixture
def nights(shelf):
    """Three nights of the database orders; the second is verified, the third has failed."""
    ids = [shelf.put_backup("orders", NIGHT + timedelta(days=n, microseconds=5), number=n) for n in range(3)]
    shelf.put_evidence("orders", ids[1], RESTORED, at=NIGHT)
    shelf.put_evidence("orders", ids[2], FAILED, RESTORED, at=NIGHT)
    return ids


@pytest.fixture
def named(s3_client, uri):
    """(database, name) → what the name stands for."""
    return lambda database, name: resolve(s3_client, f"{uri}/{database}/{name}", LOG)


@pytest.mark.parametrize(
    ("name", "night"),
    [
        ("latest", 2),
        ("latest-verified", 1),
        ("2026-11-21T03:00:01", 1),
        ("2026-11-21T03:00:00.000005Z", 1),
        ("2026-11-21T03:00", 0),  # its dump began five microseconds later
        ("2026-11-22T01:00+02:00", 1),
        ("2026-11-22 23:00", 2),
        ("20261121", 1),
        ("20261121T0300", 1),
        ("20261120T030000Z-000000", 0),
    ],
)
def test_a_name_stands_for_one_backup(nights, named, uri, name, night):
    assert named("orders", name) == f"{uri}/orders/{nights[night]}.json"


@pytest.mark.parametrize("database", ["my db", "50%25 off", "a/b", "..", "ünïcode"])
def test_a_database_is_named_as_in_keys(shelf, s3_client, uri, database):
    repository = Repository(s3_client, uri)
    base = repository.base(database).removeprefix("production/").rstrip("/")
    backup_id = shelf.put_backup(base, NIGHT)
    assert resolve(s3_client, f"{uri}/{base}/latest", LOG) == f"{uri}/{base}/{backup_id}.json"


def test_what_has_no_name_is_left_as_it_is(s3_client, uri):
    for given in (f"{uri}/orders/20261120T030000Z-000000.json", f"{uri}/dump.tar.gz", f"{uri}/2026-11-20.dump"):
        assert resolve(s3_client, given, LOG) == given


@pytest.mark.parametrize("name", ["latest", "20261120", "2026-11-20", "2026-11-20T03:00", "latests"])
def test_an_object_of_that_name_is_itself(shelf, named, uri, name):
    shelf.put(f"other/{name}")
    assert named("other", name) == f"{uri}/other/{name}"


@pytest.mark.parametrize(
    ("database", "name", "said"),
    [
        (
            "orders",
            "2026",
            "3 backups of 'orders' have ids that begin with 2026: which of 20261122T03",
        ),
        ("orders", "2026-11-21", "2026-11-21 is a day, and backups have times: write one"),
        ("orders", "2026-11-20T02:59", "is of 2026-11-20T02:59 or older: the oldest is 20261120T030000Z-000000"),
        ("orders", "20261121T04", "near are 20261120T030000Z-000000, 20261121T030000Z-000001, 20261122T030000Z"),
        ("orders", "2026-11-41T02:59", "must be a time such as"),
        ("order", "latest", "there is no backup of 'order' in s3://.*/production/order/: did you mean 'orders'?"),
        ("hr", "latest-verified", "there are some of orders"),
        ("orders", "lastest", "did you mean s3://.*/production/orders/latest?"),
        ("orders", "latest_verified", "did you mean s3://.*/production/orders/latest-verified?"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_is_near(nights, named, database, name, said):
    with pytest.raises(InputError) as caught:
        named(database, name)
    assert re.search(said.replace("?", r"\?"), str(caught.value))


def test_a_database_that_was_forgotten_is_named(shelf, s3_client, uri):
    shelf.put_backup("orders", NIGHT)
    forgotten = f"{uri}/latest"
    with pytest.raises(InputError) as caught:
        resolve(s3_client, forgotten, LOG)
    assert f"{forgotten} lacks the name of the database: write {uri}/orders/latest (" in str(caught.value)


def test_none_that_is_verified_is_said_with_the_latest(shelf, named):
    backup_id = shelf.put_backup("hr", NIGHT)
    with pytest.raises(InputError, match=f"is verified: verify one, or take latest, which is {backup_id}"):
        named("hr", "latest-verified")


def test_a_name_that_is_also_an_objects_is_refused(nights, shelf, named):
    shelf.put("orders/latest")
    with pytest.raises(InputError, match="is an object, and also a name of"):
        named("orders", "latest")


@pytest.mark.parametrize(
    ("folder", "what"), [("", "a repository"), ("/my%20db", "the folder of a database"), ("/", "a repository")]
)
def test_a_folder_is_answered_with_a_backup_in_it(shelf, s3_client, uri, folder, what):
    shelf.put_backup("my%20db", NIGHT)
    with pytest.raises(InputError) as caught:
        resolve(s3_client, uri + folder, LOG)
    said = f"{(uri + folder).rstrip('/')} is {what}: name a backup in it, such as {uri}/my%20db/latest"
    assert str(caught.value) == said


def test_an_object_beside_a_folder_of_its_name_is_itself(nights, s3_client, uri, bucket):
    s3_client.put_object(Bucket=bucket, Key="production", Body=b"PGDMP")
    assert resolve(s3_client, uri, LOG) == uri


def test_a_name_without_a_database_is_refused(s3_client, bucket):
    with pytest.raises(InputError, match="write s3://bucket/prefix/DATABASE/latest"):
        resolve(s3_client, f"s3://{bucket}/latest", LOG)
