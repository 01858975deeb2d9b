"""The evidence keeps what verifications have found, of this very manifest, whoever writes at the same time."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.repository import verification_record as evidences
from airflow_pg_s3.core.repository.manifest import Producer
from airflow_pg_s3.core.repository.repository import StoredManifest
from airflow_pg_s3.core.repository.verification_record import (
    KEPT,
    Difference,
    Evidence,
    TableResult,
    Verification,
    followed_by,
    key_of,
    read_evidence,
    record,
)
from airflow_pg_s3.core.s3.errors import AccessDenied
from tests.support.stored_backups import sealed_json

BEGAN = datetime(2026, 11, 22, 6, tzinfo=UTC)
MANIFEST = SimpleNamespace(backup_id="20261122T030000Z-5f3a9c", stored_bytes=42, new_stored_bytes=7)
STORED = StoredManifest(MANIFEST, "some/prefix/shop/", "0" * 64)
KEY = "some/prefix/shop/20261122T030000Z-5f3a9c.verified.json"


def found(outcome="verified", *, level="restore", minutes=0, **facts):
    return Verification(
        outcome=outcome,
        level=level,
        began_at=BEGAN + timedelta(minutes=minutes),
        duration_seconds=1.5,
        producer=Producer(tool="test", version="1"),
        **facts,
    )


def history(*verifications):
    """Evidence of verifications, the oldest first."""
    evidence = None
    for verification in verifications:
        evidence = followed_by(evidence, STORED, verification)
    return evidence


def one_table(matches=True):
    return TableResult(schema="public", name="t", rows_expected=3, rows_found=3, matches=matches)


def test_what_is_written_is_what_is_read():
    difference = Difference(kind="table", name="public.t", detail="3 rows expected, 2 found")
    evidence = history(found("failed", tables=[one_table(False)], differences=[difference], warnings=["w"]))
    assert Evidence.model_validate_json(evidence.to_json()) == evidence
    assert json.loads(evidence.to_json())["verifications"][0]["tables"][0]["schema"] == "public"


def test_the_newest_comes_first_and_only_it_keeps_its_tables():
    evidence = history(found(tables=[one_table()]), found("failed", minutes=1, tables=[one_table(False)]))
    assert [(v.outcome, len(v.tables)) for v in evidence.verifications] == [("failed", 1), ("verified", 0)]


@pytest.mark.parametrize(
    ("outcomes", "is_verified"),
    [
        (["verified"], True),
        (["failed"], False),
        (["could not verify"], False),
        (["verified", "failed"], False),
        (["failed", "verified"], True),
        (["verified", "could not verify"], True),
        (["failed", "could not verify"], False),
        (["verified", *["could not verify"] * (KEPT + 5)], True),
        (["failed", *["could not verify"] * (KEPT + 5)], False),
        (["verified", "failed", *["could not verify"] * (KEPT + 5)], False),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else "",
)
def test_the_newest_outcome_that_tells_something_decides_however_many_tell_nothing(outcomes, is_verified):
    evidence = history(*(found(outcome, minutes=number) for number, outcome in enumerate(outcomes)))
    assert evidence.is_verified == is_verified
    assert len(evidence.verifications) == min(len(outcomes), KEPT)


def test_checksums_prove_no_restore_but_damage():
    assert not history(found(level="checksum")).is_verified
    assert history(found(), found(level="checksum", minutes=1)).is_verified
    assert not history(found(), found("failed", level="checksum", minutes=1)).is_verified


def test_only_so_many_are_kept():
    evidence = history(*(found(minutes=number) for number in range(KEPT + 3)))
    assert [v.began_at.minute for v in evidence.verifications] == list(range(KEPT + 2, 2, -1))


def test_it_lies_beside_the_manifest_and_comes_with_the_arguments_that_s3_accepts(s3_client, bucket):
    assert read_evidence(s3_client, bucket, STORED) is None
    arguments = {"StorageClass": "GLACIER", "ServerSideEncryption": "AES256", "NoSuchArgument": 1}
    assert record(s3_client, bucket, STORED, found(), arguments) == f"s3://{bucket}/{KEY}"
    assert key_of(STORED) == KEY
    head = s3_client.head_object(Bucket=bucket, Key=KEY)
    assert (head["ServerSideEncryption"], head["ContentType"]) == ("AES256", "application/json")
    # It is read with each listing: never in an archive.
    assert "StorageClass" not in head
    record(s3_client, bucket, STORED, found("failed", minutes=1), {})
    assert [v.outcome for v in read_evidence(s3_client, bucket, STORED).verifications] == ["failed", "verified"]


@pytest.mark.parametrize(
    "other",
    [
        b"no JSON",
        b"{}",
        sealed_json(json.loads(history(found()).to_json()) | {"manifest_sha256": "1" * 64}),
        sealed_json(json.loads(history(found()).to_json()) | {"backup_id": "20261122T030000Z-000000"}),
        history(found()).to_json().replace(b'"duration_seconds": 1', b'"duration_seconds": 3', 1),
    ],
    ids=["nothing", "empty", "another manifest", "another backup", "damaged"],
)
def test_what_does_not_speak_of_this_manifest_says_nothing_and_is_replaced(s3_client, bucket, other):
    s3_client.put_object(Bucket=bucket, Key=KEY, Body=other)
    assert read_evidence(s3_client, bucket, STORED) is None
    record(s3_client, bucket, STORED, found(), {})
    assert read_evidence(s3_client, bucket, STORED) == history(found())


def test_of_many_that_end_at_the_same_time_none_is_lost(s3_client, bucket, monkeypatch):
    """Each reads before any writes: the first round of writes is a collision, whatever the machine's speed."""
    all_have_read, real = threading.Barrier(6), evidences._read
    first = set()

    def read_together(client, bucket, stored):
        answer = real(client, bucket, stored)
        if threading.get_ident() not in first:
            first.add(threading.get_ident())
            all_have_read.wait(60)
        return answer

    monkeypatch.setattr(evidences, "_read", read_together)
    monkeypatch.setattr(evidences, "_PAUSE_SECONDS", 0.01)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: record(s3_client, bucket, STORED, found(minutes=n), {}), range(6)))
    monkeypatch.setattr(evidences, "_read", real)
    kept = read_evidence(s3_client, bucket, STORED).verifications
    assert sorted(v.began_at.minute for v in kept) == list(range(6))


class Wrapped:
    """A client whose PutObject is given to a function first, which may raise."""

    def __init__(self, client, before=lambda arguments: None, after=lambda: None):
        self._client, self._before, self._after = client, before, after
        self.puts = []

    def __getattr__(self, name):
        return getattr(self._client, name)

    def put_object(self, **arguments):
        self.puts.append(arguments)
        self._before(arguments)
        answer = self._client.put_object(**arguments)
        self._after()
        return answer


def refusal(status, code):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def test_a_store_that_knows_no_conditions_gets_a_plain_write(s3_client, bucket):
    def refuse_conditions(arguments):
        if "IfMatch" in arguments or "IfNoneMatch" in arguments:
            raise refusal(501, "NotImplemented")

    record(Wrapped(s3_client, refuse_conditions), bucket, STORED, found(), {})
    record(Wrapped(s3_client, refuse_conditions), bucket, STORED, found(minutes=1), {})
    assert len(read_evidence(s3_client, bucket, STORED).verifications) == 2


def test_a_store_that_compares_etags_without_their_quotes_is_understood(s3_client, bucket):
    def refuse_quotes(arguments):
        if '"' in arguments.get("IfMatch", ""):
            raise refusal(412, "PreconditionFailed")

    record(s3_client, bucket, STORED, found(), {})
    client = Wrapped(s3_client, refuse_quotes)
    record(client, bucket, STORED, found(minutes=1), {})
    assert len(read_evidence(s3_client, bucket, STORED).verifications) == 2
    assert '"' not in client.puts[-1]["IfMatch"]


def test_an_answer_that_was_lost_does_not_record_it_twice(s3_client, bucket):
    def lose():
        raise refusal(412, "PreconditionFailed")  # what a second attempt of botocore's gets

    record(Wrapped(s3_client, after=lose), bucket, STORED, found(), {})
    assert len(read_evidence(s3_client, bucket, STORED).verifications) == 1


def test_a_refusal_is_a_storage_error_that_names_the_object(s3_client, bucket):
    def refuse(arguments):
        raise refusal(403, "AccessDenied")

    with pytest.raises(StorageError, match=f"s3://{bucket}/{KEY} cannot be written: .*AccessDenied"):
        record(Wrapped(s3_client, refuse), bucket, STORED, found(), {})
    assert read_evidence(s3_client, bucket, STORED) is None
    with pytest.raises(AccessDenied, match="the bucket 'no-such-bucket' does not exist"):
        record(s3_client, "no-such-bucket", STORED, found(), {})
