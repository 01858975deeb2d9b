"""What a backup that was killed has stored is copied when it comes again, and never referred to."""

import base64
import hashlib
import logging
import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from airflow_pg_s3.core.backup import abandoned
from airflow_pg_s3.core.backup.abandoned import remove_all_but_one
from airflow_pg_s3.core.backup.abandoned_chunks import read_abandoned
from airflow_pg_s3.core.backup.chunk_store import ChunkStore, RunWriter
from airflow_pg_s3.core.backup.known_chunks import KnownChunks
from airflow_pg_s3.core.repository.codec import Encoder
from airflow_pg_s3.core.repository.repository import Begun, Repository
from airflow_pg_s3.core.s3.requests import md5_of

KILLED, ID = "20261122T030000Z-00002a", "20261122T040000Z-5f3a9c"
LOG = logging.getLogger("killed")
CONTENTS = [random.Random(number).randbytes(1000) for number in range(5)]
DIGESTS = [hashlib.sha256(content).digest() for content in CONTENTS]


@pytest.fixture
def repository(s3_client, bucket):
    return Repository(s3_client, f"s3://{bucket}/p")


@pytest.fixture
def writer_of(s3_client, bucket):
    """Make what stores the chunks of one backup, at once, two in a run."""

    def make(backup_id, taken=None):
        def put(key, body):
            s3_client.put_object(Bucket=bucket, Key=key, Body=bytes(body))

        folder = f"p/shop/{backup_id}/"
        uploader, known = SimpleNamespace(store=put), KnownChunks()
        made = ChunkStore(uploader, Encoder(level=1), known, folder=folder, abandoned=taken, run_bytes=1500)
        return SimpleNamespace(store=made, writer=RunWriter(made))

    return make


@pytest.fixture
def killed(repository, writer_of):
    """A backup that has stored five chunks in three runs."""
    writer = writer_of(KILLED).writer
    for content in CONTENTS:
        writer.write(memoryview(content))
    writer.end_run()
    return Begun(backup_id=KILLED, database="shop", instance="i")


@pytest.fixture
def read(repository, killed, cancel):
    def read(arguments=(), client=None):
        of = Repository(client, f"s3://{repository.bucket}/p") if client else repository
        return read_abandoned(of, killed, dict(arguments), cancel, LOG)

    return read


def test_a_run_is_copied_once_and_whole_and_only_if_one_of_its_chunks_comes_again(
    read, writer_of, s3_client, bucket, keys_of
):
    taken = read()
    made = writer_of(ID, taken)
    chunks = [made.writer.write(memoryview(CONTENTS[number])) for number in (3, 2, 3)]
    new = made.writer.write(memoryview(b"new"))
    made.writer.end_run()
    assert keys_of(bucket, f"p/shop/{ID}/") == [f"p/shop/{ID}/000001.zst", f"p/shop/{ID}/000002.zst"]
    bodies = [
        s3_client.get_object(Bucket=bucket, Key=f"p/shop/{key}")["Body"].read()
        for key in (f"{KILLED}/000002.zst", f"{ID}/000001.zst")
    ]
    assert bodies[0] == bodies[1]
    assert [(chunk.key, chunk.sha256) for chunk in chunks] == [
        (f"{ID}/000001.zst", DIGESTS[number]) for number in (3, 2, 3)
    ]
    assert chunks[0] == chunks[2]
    assert chunks[0].offset == chunks[1].stored_bytes
    assert new.key == f"{ID}/000002.zst"
    assert (made.store.chunks, made.store.new_chunks) == (3, 3)
    assert (taken.copied_runs, taken.copied_bytes) == (1, len(bodies[0]))


def test_who_asks_while_a_run_is_being_copied_stores_its_chunk_anew(read):
    taken = read()
    meanwhile = []

    def begin_run():
        meanwhile.append(taken.take(DIGESTS[1], lambda: pytest.fail("it is copied twice")))
        return f"{ID}/000001.zst"

    assert taken.take(DIGESTS[0], begin_run).key == f"{ID}/000001.zst"
    assert meanwhile == [None]
    assert taken.take(DIGESTS[1], begin_run).key == f"{ID}/000001.zst"


def test_a_copy_that_fails_is_the_last(read, writer_of, s3_client, bucket, keys_of, caplog):
    taken = read()
    s3_client.delete_object(Bucket=bucket, Key=f"p/shop/{KILLED}/000001.zst")
    made = writer_of(ID, taken)
    for content in CONTENTS:
        made.writer.write(memoryview(content))
    made.writer.end_run()
    # The number of the copy that failed is not used again: it may yet come to be.
    assert keys_of(bucket, f"p/shop/{ID}/") == [f"p/shop/{ID}/00000{number}.zst" for number in (2, 3, 4)]
    assert taken.copied_runs == 0
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{KILLED}/000001.zst" in record.message


def test_runs_that_are_not_given_out_are_not_asked_for_one_after_the_other(
    repository, s3_client, bucket, killed, cancel, caplog
):
    listed = repository.sizes([f"p/shop/{KILLED}/"])
    gone = {f"p/shop/{KILLED}/{number:06d}.zst": 5000 for number in range(1, 200)}
    asked = []
    get_object = s3_client.get_object

    def get(**arguments):
        asked.append(arguments["Key"])
        return get_object(**arguments)

    client = SimpleNamespace(get_object=get, meta=s3_client.meta)
    of = SimpleNamespace(client=client, bucket=bucket, base=repository.base, sizes=lambda _: listed | gone)
    taken = read_abandoned(of, killed, {}, cancel, LOG)
    assert len(asked) < 50
    assert taken.take(DIGESTS[0], lambda: pytest.fail("it is copied")) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_copy_is_stored_with_the_arguments_of_what_is_stored(read, s3_client, bucket):
    arguments = {"StorageClass": "STANDARD_IA", "Tagging": "team=data", "Metadata": {"made": "by us"}}
    read(arguments).take(DIGESTS[0], lambda: f"{ID}/000001.zst")
    key = {"Bucket": bucket, "Key": f"p/shop/{ID}/000001.zst"}
    head = s3_client.head_object(**key)
    assert (head["StorageClass"], head["Metadata"]) == ("STANDARD_IA", {"made": "by us"})
    assert s3_client.get_object_tagging(**key)["TagSet"] == [{"Key": "team", "Value": "data"}]


def test_a_copy_is_read_and_stored_with_the_customers_key(read, new_s3_client):
    asked = []
    client = new_s3_client()
    client.meta.events.register("provide-client-params.s3.CopyObject", lambda params, **_: asked.append(params))
    key = base64.b64encode(bytes(32)).decode()
    arguments = {
        "SSECustomerAlgorithm": "AES256", "SSECustomerKey": key, "SSECustomerKeyMD5": md5_of(bytes(32)),
    }  # fmt: skip
    read(arguments, client).take(DIGESTS[0], lambda: f"{ID}/000001.zst")
    (params,) = asked
    assert params.items() >= {f"CopySource{name}": value for name, value in arguments.items()}.items()
    assert params.items() >= arguments.items()


NOW = datetime(2026, 11, 23, 3, tzinfo=UTC)


@pytest.fixture
def find(repository, s3_client, bucket, monkeypatch):
    """Bytes that each killed backup has stored, **arguments of the request → the id of the one that serves."""
    monkeypatch.setattr(abandoned, "is_alive", lambda *_: False)

    def find(sizes, **arguments):
        for (backup_id, recipients), size in sizes.items():
            begun = Begun(backup_id=backup_id, database="shop", instance="i", recipients=recipients)
            s3_client.put_object(Bucket=bucket, Key=f"p/shop/{backup_id}/begun", Body=begun.to_json())
            s3_client.put_object(Bucket=bucket, Key=f"p/shop/{backup_id}/000001.zst", Body=bytes(size))
        source = SimpleNamespace(database="shop", application_name=lambda name: name)
        defaults = {"source": source, "full": False, "full_every": timedelta(days=30), "age_recipients": []}
        facts = SimpleNamespace(instance="i", now=NOW)
        kept = remove_all_but_one(repository, SimpleNamespace(**defaults | arguments), None, facts, LOG)
        return kept and kept.backup_id

    return find


@pytest.mark.parametrize(
    ("sizes", "arguments", "kept"),
    [
        ({}, {}, None),
        ({(ID, ()): 10}, {}, ID),
        ({(KILLED, ()): 1000, (ID, ()): 10}, {}, KILLED),
        ({(KILLED, ()): 10, (ID, ()): 1000}, {}, ID),
        ({(KILLED, ()): 10, (ID, ()): 1000}, {"full": True}, None),
        ({(KILLED, ()): 10}, {"full_every": NOW - datetime(2026, 11, 22, 3, tzinfo=UTC)}, None),
        ({(KILLED, ()): 1000, (ID, ()): 10}, {"full_every": timedelta(hours=23, minutes=30)}, ID),
        ({(KILLED, ("age1b", "age1a")): 10, (ID, ()): 1000}, {"age_recipients": ["age1a", "age1b"]}, KILLED),
        ({(KILLED, ("age1a",)): 10, (ID, ()): 1000}, {"age_recipients": ["age1a", "age1b"]}, None),
    ],
)
def test_what_serves_best_is_kept_and_the_others_are_removed(find, bucket, keys_of, sizes, arguments, kept):
    assert find(sizes, **arguments) == kept
    folders = {key.split("/")[2] for key in keys_of(bucket)}
    assert folders == ({kept} if kept else set())
