"""Prune deletes what no rule keeps, never what must stay, and converges after any interruption."""

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from botocore.awsrequest import AWSResponse

from airflow_pg_s3.core.errors import Cancelled, PgS3Error, StorageError
from airflow_pg_s3.core.repository.manifest import Manifest, Producer
from airflow_pg_s3.core.repository.repository import Repository, read_manifest
from airflow_pg_s3.core.repository.verification_record import Evidence, Verification
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import PruneRequest
from airflow_pg_s3.core.retention.prune import prune as prune_verb
from airflow_pg_s3.hooks import connections as resolving
from airflow_pg_s3.hooks.pg_s3 import PRUNED_LISTED as LISTED
from airflow_pg_s3.operators.prune import PgS3PruneOperator
from testkit.database_equality import compare_databases
from testkit.fault_proxy import FaultProxy, Reset, at, since
from testkit.postgres import Cluster
from testkit.s3 import Moto, S3Server
from tests.integration.conftest import only_on
from tests.support.sampling import TORTURE, combine, sample
from tests.support.stored_backups import id_at, manifest_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
PREFIX = "some/prefix"
SAMPLE = 6


def manifest(backup_id: str, database: str, packs: int, **labels: str) -> Manifest:
    """The manifest of a backup whose only real content is its objects' names."""
    return manifest_of(
        database,
        backup_id,
        created_at=datetime.strptime(backup_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
        labels=labels,
        packs=[{"key": f"{backup_id}/pack-{number:04}.tar.zst", "stored_bytes": 1} for number in range(packs)],
    )


def evidence(body: bytes, backup_id: str, outcome: str = "verified", level: str = "restore") -> bytes:
    verification = Verification(
        outcome=outcome,
        level=level,
        began_at=NOON,
        duration_seconds=1,
        producer=Producer(tool="test", version="0"),
    )
    return Evidence(
        format=1,
        backup_id=backup_id,
        manifest_sha256=hashlib.sha256(body).hexdigest(),
        stored_bytes=1,
        new_stored_bytes=1,
        verifications=[verification],
    ).to_json()


class Place:
    """A repository whose backups are small and made up."""

    def __init__(self, client: object, bucket: str, prefix: str = PREFIX) -> None:
        self.client = client
        self.bucket = bucket
        self.prefix = prefix

    def put(self, name: str, body: bytes = b"x") -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=body)

    def backup(
        self,
        when: datetime,
        number: int = 0,
        *,
        database: str = "shop",
        packs: int = 2,
        verified: str | None = None,
        level: str = "restore",
        **labels: str,
    ) -> str:
        """Store a backup; its id."""
        made = manifest(id_at(when, number), database, packs, **labels)
        for key in made.object_keys():
            self.put(f"{database}/{key}")
        body = made.to_json()
        self.put(f"{database}/{made.backup_id}.json", body)
        if verified:
            self.put(f"{database}/{made.backup_id}.verified.json", evidence(body, made.backup_id, verified, level))
        return made.backup_id

    def days(self, count: int, **arguments: object) -> list[str]:
        """Store a backup on each of some days; their ids, newest first."""
        return [self.backup(NOON - timedelta(days=n), n, **arguments) for n in range(count)]

    def keys(self, database: str = "shop") -> set[str]:
        """What there is of a database."""
        base = f"{self.prefix}/{database}/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base)
        return {entry["Key"].removeprefix(base) for page in pages for entry in page.get("Contents", [])}

    def of(self, *ids: str, packs: int = 2) -> set[str]:
        """The keys of whole backups without evidence."""
        names = ["/members.json.zst", *(f"/pack-{n:04}.tar.zst" for n in range(packs)), ".json"]
        return {i + name for i in ids for name in names}


@pytest.fixture
def place(s3: S3Server, bucket: str) -> Place:
    return Place(s3.client(), bucket)


@pytest.fixture
def prune(connections, repository: str) -> Callable[..., dict]:
    """(**arguments of the operator) → what the task returns."""

    def run(**arguments: object) -> dict:
        defaults = {"task_id": "prune", "repository": repository, "aws_conn_id": "aws"}
        return PgS3PruneOperator(**defaults | arguments).execute(context={})

    return run


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable], None]:
    """(event of botocore, handler): call it for the operators' clients."""
    handlers: list[tuple[str, Callable]] = []
    original = resolving.s3_client

    def s3_client(*of: object) -> object:
        client, arguments = original(*of)
        for event, handler in handlers:
            client.meta.events.register(event, handler)
        return client, arguments

    monkeypatch.setattr(resolving, "s3_client", s3_client)
    return lambda event, handler: handlers.append((event, handler))


@pytest.fixture
def ages(on) -> dict[str, datetime]:
    """Part of a key → when it was last written, as the operator sees it. All else was just now."""
    told: dict[str, datetime] = {}

    def change(parsed: dict, **_: object) -> None:
        for entry in parsed.get("Contents", []):
            for part, when in told.items():
                if part in entry["Key"]:
                    entry["LastModified"] = when

    on("after-call.s3.ListObjectsV2", change)
    return told


def ids(entries: list[dict]) -> list[str]:
    return [entry["backup_id"] for entry in entries]


class Body:
    def __init__(self, text: bytes) -> None:
        self._text = text

    def stream(self, **_: object):
        yield self._text


def refusal(request: object, code: str, message: str = "by the test", status: int = 403) -> AWSResponse:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return AWSResponse(request.url, status, {"content-type": "application/xml"}, Body(text))


@pytest.fixture(autouse=True)
def python_log(monkeypatch) -> None:
    """Let the operator log where caplog looks."""
    monkeypatch.setattr(PgS3PruneOperator, "log", logging.getLogger("prune"))


# -- rules --------------------------------------------------------------------------------------------------------


def test_what_no_rule_keeps_is_deleted_and_nothing_else(s3, place, prune, repository: str, caplog):
    made = place.days(5)
    staging = place.backup(LONG_AGO, database="shop_staging")
    strangers = {"notes.json", "20261301T000000Z-000000.json", "README", f"{made[4]}.json.tmp", "latest/thing"}
    for name in strangers:
        place.put(f"shop/{name}")
    with caplog.at_level(logging.INFO):
        done = prune(database="shop", keep_last=1, keep_daily="2", keep_yearly="")
    assert place.keys() == place.of(*made[:2]) | strangers
    assert place.keys("shop_staging") == place.of(staging)
    about = [{"uri": f"{repository}/shop/{i}.json", "database": "shop", "backup_id": i} for i in made]
    assert done == {
        "uri": repository,
        "dry_run": False,
        "kept": [
            about[0] | {"reasons": ["last 1", "daily 2026-03-01"]},
            about[1] | {"reasons": ["daily 2026-02-28"]},
        ],
        "deleted": [backup | {"reasons": ["no rule keeps it"], "freed_bytes": 3} for backup in about[2:]],
        "protected": [],
        "unreadable": [],
        "orphans": [],
        "counts": {"kept": 2, "deleted": 3, "protected": 0, "unreadable": 0, "orphans": 0},
        "freed_bytes": 9,
        "needed_bytes": 0,
        "postponed": {},
    }
    lines = [line.rstrip() for line in caplog.messages]
    assert any(line.startswith(made[0]) and line.endswith("keep    last 1, daily 2026-03-01") for line in lines)
    assert any(line.startswith(made[3]) and line.endswith("delete  no rule keeps it") for line in lines)
    assert ids(prune(database="shop", keep_daily=2)["deleted"]) == []


@only_on("moto")
def test_a_dry_run_says_the_same_and_deletes_nothing(s3, place, prune, ages):
    made = place.days(4)
    orphan = id_at(LONG_AGO)
    place.put(f"shop/{orphan}/pack-0001.tar.zst")
    ages[orphan] = LONG_AGO
    before = place.keys()
    would = prune(keep_daily=1, dry_run="True")
    assert place.keys() == before
    did = prune(keep_daily=1)
    assert place.keys() == place.of(made[0])
    assert would == did | {"dry_run": True}
    assert did["counts"] == {"kept": 1, "deleted": 3, "protected": 0, "unreadable": 0, "orphans": 1}


@only_on("moto")
def test_days_begin_where_the_timezone_says(s3, place, prune):
    late, early = (place.backup(datetime(2026, 3, 1, hour, tzinfo=UTC)) for hour in (3, 6))
    assert ids(prune(keep_daily=9, timezone="America/New_York")["deleted"]) == []  # 22:00 and 01:00
    assert ids(prune(keep_daily=9)["deleted"]) == [late]
    assert place.keys() == place.of(early)


@only_on("moto")
def test_without_a_database_each_is_pruned_by_itself(s3, place, prune):
    newest = {name: place.days(2, database=name)[0] for name in ("a", "b%20c", "d")}
    done = prune(keep_last=1)
    assert {entry["database"]: entry["backup_id"] for entry in done["kept"]} == {
        "a": newest["a"], "b c": newest["b%20c"], "d": newest["d"],
    }  # fmt: skip
    assert all(place.keys(name) == place.of(newest[name]) for name in newest)


@only_on("moto")
def test_one_database_that_fails_does_not_keep_the_others_from_being_pruned(s3, place, prune, on):
    newest = {name: place.days(2, database=name)[0] for name in ("a", "b")}

    def a_refused(request):
        body = request.body if isinstance(request.body, bytes) else request.body.read()
        if not isinstance(request.body, bytes):
            request.body.seek(0)
        return refusal(request, "AccessDenied") if b"/a/" in body else None

    on("before-send.s3.DeleteObjects", lambda request, **_: a_refused(request))
    with pytest.raises(
        StorageError, match=r"1 of 2 databases could not be pruned.*: a: cannot delete s3://.*/a/2026"
    ):
        prune(keep_last=1)
    assert place.keys("b") == place.of(newest["b"])
    assert place.keys("a") >= place.of(newest["a"])


@only_on("moto")
def test_of_many_backups_xcom_gets_the_first_and_their_number(s3, place, prune):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: place.backup(NOON - timedelta(days=n), packs=1), range(LISTED + 20)))
    done = prune(keep_last=5)
    assert done["counts"]["deleted"] == LISTED + 15
    assert ids(done["deleted"]) == made[5 : LISTED + 5]
    assert place.keys() == place.of(*made[:5], packs=1)


@only_on("moto")
def test_a_folder_of_more_objects_than_s3_deletes_at_once(s3, place, prune):
    new, old = place.days(2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: place.put(f"shop/{old}/{n}.dat.zst"), range(1001)))
    prune(keep_last=1)
    assert place.keys() == place.of(new)


# -- what always stays -------------------------------------------------------------------------------------------


@only_on("moto")
def test_the_newest_verified_backup_stays(s3, place, prune):
    new = place.backup(NOON, 1, verified="failed")
    place.backup(NOON - timedelta(days=1), verified="verified", level="checksum")
    place.backup(NOON - timedelta(days=2), verified="could not verify")
    proved = place.backup(NOON - timedelta(days=3), verified="verified")
    place.backup(NOON - timedelta(days=4), verified="verified")
    done = prune(keep_last=1)
    assert {e["backup_id"]: e["reasons"] for e in done["kept"]} == {new: ["last 1"], proved: ["newest verified"]}
    assert place.keys() == place.of(new, proved) | {f"{new}.verified.json", f"{proved}.verified.json"}


@only_on("moto")
def test_evidence_that_cannot_be_read_may_be_the_newest_proof(s3, place, prune):
    new, strange, gone = place.days(3)
    place.put(f"shop/{strange}.verified.json", b'{"format": 2}')
    done = prune(keep_last=1)
    assert [e["reasons"] for e in done["kept"]] == [["last 1"], ["its evidence cannot be read"]]
    assert ids(done["deleted"]) == [gone]
    assert place.keys() == place.of(new, strange) | {f"{strange}.verified.json"}


@only_on("moto")
def test_what_cannot_be_read_stays_with_its_data_and_takes_no_ones_place(s3, place, prune):
    broken, later, misnamed, good, fair, old = place.days(6)
    place.put(f"shop/{broken}.json", b"{")
    place.put(f"shop/{later}.json", b'{"format": 2}')
    place.put(f"shop/{misnamed}.json", manifest(good, "shop", 2).to_json())
    place.put(f"shop/{old}.json", b"")
    done = prune(keep_last=1)
    assert ids(done["unreadable"]) == [broken, later, misnamed, old]
    reasons = [entry["reasons"][0] for entry in done["unreadable"]]
    for said, reason in zip(
        ("not a manifest", "upgrade", "another backup", "not a manifest"), reasons, strict=True
    ):
        assert said in reason
    assert (ids(done["kept"]), ids(done["deleted"])) == ([good], [fair])
    assert place.keys() == place.of(broken, later, misnamed, good, old)


@only_on("moto")
def test_a_backup_on_hold_stays(s3, place, prune):
    new = place.backup(NOON)
    held = place.backup(NOON - timedelta(days=9), hold="until the audit of 2027", release="42")
    freed = place.backup(NOON - timedelta(days=8), hold="")
    done = prune(keep_last=1)
    assert done["kept"][1]["reasons"] == ["label hold=until the audit of 2027"]
    assert ids(done["deleted"]) == [freed]
    assert place.keys() == place.of(new, held)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "no rule says what to keep"),
        ({"keep_last": 0, "keep_daily": "0", "keep_weekly": None}, "no rule says what to keep"),
        ({"keep_daily": -1}, "keep_daily must be a number of backups to keep, at least 0, not -1"),
        ({"keep_daily": "seven"}, "keep_daily must be a number, not 'seven'"),
        ({"keep_daily": 1, "timezone": "Mars/Base"}, "timezone must be the IANA name"),
        ({"keep_daily": 1, "orphan_age": timedelta(hours=1)}, "orphan_age must be at least 2 h, not 60 min"),
        ({"keep_daily": 1, "dry_run": "perhaps"}, "dry_run must be True or False, not 'perhaps'"),
        ({"keep_daily": 1, "repository": "s3://no-such-bucket-here/x"}, "'no-such-bucket-here' does not exist"),
        ({"keep_daily": 1, "repository": "/tmp"}, "repository must look like s3://"),
        ({"keep_daily": 1, "aws_conn_id": "nobody"}, "'nobody' does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
@only_on("moto")
def test_what_cannot_work_is_refused_before_anything_is_deleted(s3, place, prune, arguments, said):
    made = place.days(2)
    with pytest.raises(AirflowFailException, match=said):
        prune(**arguments)
    assert place.keys() == place.of(*made)


# -- what failed backups leave -----------------------------------------------------------------------------------


@only_on("moto")
def test_old_data_without_a_manifest_is_swept_and_young_data_is_not(s3, place, prune, ages):
    kept = place.backup(NOON)
    old, mixed = (id_at(LONG_AGO, number) for number in (1, 2))
    for orphan in (old, mixed):
        place.put(f"shop/{orphan}/begun", b"{}")
        place.put(f"shop/{orphan}/000001.zst")
    place.put(f"shop/{old}.verified.json")
    place.put(f"shop/{id_at(LONG_AGO, 4)}.verified.json")
    place.put(f"shop/{id_at(LONG_AGO, 5)}.verified.json")
    almost = datetime.now(UTC) - timedelta(hours=47)
    ages |= {f"/{old}": LONG_AGO, f"/{mixed}/begun": LONG_AGO, f"/{mixed}/000001": almost}
    ages[f"{id_at(LONG_AGO, 4)}.verified"] = LONG_AGO
    before = place.keys()
    # It may be in progress, and refer to anything that there is.
    waits = prune(database="shop", keep_last=1)
    assert (waits["orphans"], place.keys()) == ([], before)
    assert mixed in waits["postponed"]["shop"]
    done = prune(database="shop", keep_last=1, orphan_age=timedelta(hours=46))
    assert (ids(done["orphans"]), done["postponed"]) == ([id_at(LONG_AGO, 4), mixed, old], {})
    assert place.keys() == place.of(kept) | {f"{id_at(LONG_AGO, 5)}.verified.json"}


@only_on("moto")
def test_what_is_committed_after_the_listing_is_left_alone(s3, place, prune, ages, on):
    backup_id = id_at(LONG_AGO)
    place.put(f"shop/{backup_id}/pack-0000.tar.zst")
    ages[backup_id] = LONG_AGO
    on("before-send.s3.HeadObject", lambda **_: place.backup(LONG_AGO) and None)
    assert prune(database="shop", keep_last=1)["orphans"] == []
    assert place.keys() == place.of(backup_id)


# -- interruptions -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(moto: S3Server):
    with FaultProxy(moto) as running:
        yield running


def make_place(client: object, bucket: str, prefix: str) -> tuple[Place, SimpleNamespace]:
    """A repository with something of every kind."""
    place = Place(client, bucket, prefix)
    made = SimpleNamespace(
        newest=place.backup(NOON, 1),
        proved=place.backup(NOON - timedelta(days=5), verified="verified"),
        doomed=[
            place.backup(NOON - timedelta(days=1), verified="failed"),
            place.backup(NOON - timedelta(days=6), verified="verified"),
        ],
    )
    return place, made


@only_on("moto")
@pytest.mark.parametrize(("when", "duration"), combine(["before", "after"], [at, since], name="interrupted prune"))
def test_interrupted_at_any_request_and_repeated_it_converges(s3, bucket, proxy, when, duration):
    client, faulty = s3.client(), proxy.client(retries={"total_max_attempts": 1})
    log = logging.getLogger("prune")
    request = PruneRequest(retention=RetentionPolicy(keep_last=1))

    def run(place: Place, with_client: object) -> None:
        repository = Repository(with_client, f"s3://{bucket}/{place.prefix}")
        prune_verb(request, repository, cancel=threading.Event(), log=log)

    place, made = make_place(client, bucket, "clean")
    expected = place.of(made.newest, made.proved) | {f"{made.proved}.verified.json"}
    proxy.reset()
    run(place, faulty)
    assert place.keys() == expected
    failed = 0
    for index in sample(range(len(proxy.requests)), SAMPLE, "interrupted prune", when, duration.__name__):
        place, made = make_place(client, bucket, f"{index}")
        proxy.reset(duration(index, Reset(when)))
        try:
            run(place, faulty)
        except PgS3Error:
            failed += 1
        proxy.reset()
        keys = place.keys()
        assert keys >= expected
        for backup_id in made.doomed:
            assert f"{backup_id}.json" not in keys or place.of(backup_id) <= keys
        # The mark of one that was killed holds for half an hour.
        client.delete_object(Bucket=bucket, Key=f"{place.prefix}/shop/sweeping")
        run(place, client)
        assert place.keys() == expected
    # Some may fail without harm.
    assert failed > (10 if TORTURE else 0)


@only_on("moto")
def test_stopped_by_airflow_it_ends_soon_and_the_next_run_goes_on(s3, place, connections, repository, prune, on):
    made = place.days(3, packs=3)
    task = PgS3PruneOperator(task_id="p", repository=repository, database="shop", keep_last=1, aws_conn_id="aws")
    on("before-send.s3.DeleteObjects", lambda **_: task.on_kill())
    with pytest.raises(Cancelled):
        task.execute({})
    keys = place.keys()
    assert keys > place.of(made[0], packs=3)
    for backup_id in made[1:]:
        assert f"{backup_id}.json" not in keys or place.of(backup_id, packs=3) <= keys
    prune(keep_last=1)
    assert place.keys() == place.of(made[0], packs=3)


@only_on("moto")
def test_without_the_right_to_mark_it_prunes_and_says_what_that_means(s3, place, prune, on, caplog):
    made = place.days(3)
    on(
        "before-send.s3.PutObject",
        lambda request, **_: refusal(request, "AccessDenied") if request.url.endswith("/pruned") else None,
    )
    prune(keep_last=1)
    assert place.keys() == place.of(made[0])
    assert "no right to write" in caplog.text


@only_on("moto")
def test_without_the_right_to_keep_backups_out_nothing_but_manifests_goes_and_it_fails(s3, place, prune, on):
    made = place.days(2)
    on(
        "before-send.s3.PutObject",
        lambda request, **_: refusal(request, "AccessDenied") if request.url.endswith("/sweeping") else None,
    )
    with pytest.raises(StorageError, match=r"cannot write s3://.*/shop/sweeping: .*AccessDenied"):
        prune(keep_last=1)
    assert place.keys() == place.of(*made) - {f"{made[1]}.json"} | {f"{made[1]}/pruned"}


# -- locks, versions, rights --------------------------------------------------------------------------------------


@pytest.fixture
def locked_place(s3: S3Server) -> Place:
    bucket = s3.create_bucket(f"locked-{uuid.uuid4().hex[:12]}", ObjectLockEnabledForBucket=True)
    return Place(s3.client(), bucket)


def test_what_object_lock_protects_stays_visible_and_is_no_error(s3, locked_place: Place, prune, caplog):
    if isinstance(s3, Moto):
        pytest.skip("moto does not answer GetObjectRetention")
    place = locked_place
    new, retained, member, held, gone, expired = place.days(6)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)

    def retain(name: str, end: datetime) -> None:
        place.client.put_object_retention(
            Bucket=place.bucket,
            Key=f"{PREFIX}/shop/{name}",
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": end},
        )

    retain(f"{retained}.json", until)
    retain(f"{member}/pack-0001.tar.zst", until)
    place.client.put_object_legal_hold(
        Bucket=place.bucket, Key=f"{PREFIX}/shop/{held}/pack-0000.tar.zst", LegalHold={"Status": "ON"}
    )
    dry = prune(repository=f"s3://{place.bucket}/{PREFIX}", keep_last=1, dry_run=True)
    with caplog.at_level(logging.INFO):
        done = prune(repository=f"s3://{place.bucket}/{PREFIX}", keep_last=1)
    assert dry == done | {"dry_run": True}
    assert ids(done["protected"]) == [retained, member, held]
    assert [entry["reasons"] for entry in done["protected"]] == [
        [f"Object Lock until {until:%Y-%m-%d %H:%M:%S} UTC"],
        [f"Object Lock until {until:%Y-%m-%d %H:%M:%S} UTC"],
        [f"Object Lock: legal hold on {PREFIX}/shop/{held}/pack-0000.tar.zst"],
    ]
    assert ids(done["deleted"]) == [gone, expired]
    assert place.keys() == place.of(new, retained, member, held)
    assert "the bucket keeps versions" in caplog.text
    # Hidden, not gone: that takes a lifecycle rule.
    versions = place.client.list_object_versions(Bucket=place.bucket, Prefix=f"{PREFIX}/shop/{gone}")
    assert {v["Key"] for v in versions["Versions"]} >= {f"{PREFIX}/shop/{key}" for key in place.of(gone)}


@only_on("moto")
@pytest.mark.parametrize("sees_bucket", [True, False])
def test_without_the_right_to_see_locks_nothing_is_deleted(s3, locked_place: Place, prune, on, sees_bucket: bool):
    made = locked_place.days(2)
    if not sees_bucket:
        on("before-send.s3.GetObjectLockConfiguration", lambda request, **_: refusal(request, "AccessDenied"))
    on("before-send.s3.GetObjectRetention", lambda request, **_: refusal(request, "AccessDenied"))
    with pytest.raises(AirflowFailException, match=r"grant s3:GetObjectRetention and s3:GetObjectLegalHold"):
        prune(repository=f"s3://{locked_place.bucket}/{PREFIX}", keep_last=1)
    assert locked_place.keys() == locked_place.of(*made)


@only_on("moto")
def test_a_store_that_refuses_to_delete_what_is_locked_is_no_error(s3, place, prune, on):
    made = place.days(2)
    on("before-send.s3.DeleteObjects", lambda request, **_: refusal(request, "ObjectLockedByBucketPolicy"))
    done = prune(keep_last=1)
    assert ids(done["protected"]) == [made[1]]
    assert place.keys() >= place.of(*made)


@only_on("moto")
@pytest.mark.parametrize(
    "message", ["Access Denied", "not authorized to s3:DeleteObject on object-lock-retention"]
)
def test_a_missing_right_to_delete_is_an_error_that_names_the_object(s3, place, prune, on, message):
    made = place.days(2)
    on("before-send.s3.DeleteObjects", lambda request, **_: refusal(request, "AccessDenied", message))
    with pytest.raises(StorageError, match=rf"cannot delete s3://.*/{made[1]}\.json: AccessDenied"):
        prune(keep_last=1)
    assert place.keys() >= place.of(*made)


# -- real backups -------------------------------------------------------------------------------------------------


def test_real_backups_are_pruned_and_the_rest_restores(
    pg18: Cluster, s3, new_database, new_name, back_up, restore, list_backups, prune, leftovers
):
    database = new_database(pg18, "create table t as select generate_series(1, 1000) as i")
    made = [back_up(pg18, database) for _ in range(3)]
    newest = max(made, key=lambda backup: backup["backup_id"])
    assert prune(keep_last=1)["counts"]["deleted"] == 2
    assert [row["uri"] for row in list_backups()] == [newest["uri"]]
    base = newest["key"].removesuffix(".json")
    assert {key for key in leftovers() if not key.startswith(f"{base}/")} == {newest["key"]}
    copy = new_name(pg18, "copy")
    restore(pg18, copy, backup=newest["uri"])
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []


def test_what_the_rest_refers_to_of_real_backups_stays_and_it_restores(
    pg18: Cluster, s3, new_database, new_name, back_up, restore, prune, leftovers, caplog
):
    caplog.set_level(logging.INFO)
    database = new_database(pg18, "create table t as select i, md5(i::text) from generate_series(1, 60000) i")
    made = [back_up(pg18, database)]
    pg18.psql("insert into t select i, md5(i::text) from generate_series(60001, 90000) i", database)
    for _ in range(2):
        time.sleep(1)  # ids have whole seconds, and only they tell which is the newest
        made.append(back_up(pg18, database))
    newest = read_manifest(s3.client(), made[2]["uri"])
    assert newest.manifest.runs.keys() >= {backup["backup_id"] for backup in made[:2]}
    done = prune(keep_last=1)
    freed = {entry["backup_id"]: entry["freed_bytes"] for entry in done["deleted"]}
    assert done["freed_bytes"] == sum(freed.values()) > 0
    assert done["needed_bytes"] > newest.manifest.new_stored_bytes
    assert "of deleted backups stay: other backups still need these objects" in caplog.text
    named = {newest.base + key for key in newest.manifest.object_keys()}
    marks = {f"{newest.base}{i}/{name}" for i in freed for name in ("settled", "pruned")}
    assert set(leftovers()) == named | marks | {made[2]["key"], f"{newest.base}{made[2]['backup_id']}/settled"}
    copy = new_name(pg18, "copy")
    restore(pg18, copy, backup=made[2]["uri"])
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []
    time.sleep(1)
    full = back_up(pg18, database, full=True)
    assert prune(keep_last=1)["needed_bytes"] == 0
    assert all(full["backup_id"] in key for key in leftovers())


@only_on("moto")
def test_a_backup_in_progress_is_left_alone_by_a_prune(
    pg18: Cluster, s3, new_database, back_up, prune, on, leftovers
):
    """The prune runs when all is stored but the manifest."""
    database = new_database(pg18, "create table t as select generate_series(1, 1000) as i")
    earlier = back_up(pg18, database)
    done = []

    def prune_now(request: object, **_: object) -> None:
        if request.url.endswith(".json") and not done:
            done.append(prune(keep_last=1))

    on("before-send.s3.PutObject", prune_now)
    made = back_up(pg18, database)
    assert (done[0]["counts"]["kept"], done[0]["counts"]["orphans"]) == (1, 0)
    for backup in (earlier, made):
        stored = read_manifest(s3.client(), backup["uri"])
        assert {stored.base + key for key in stored.manifest.object_keys()} <= set(leftovers())


def test_the_folder_of_a_database_is_no_repository(place: Place, prune, repository: str) -> None:
    place.days(1)
    told = f"name the repository, {repository}, and the database, shop"
    with pytest.raises(AirflowFailException, match=told):
        prune(repository=f"{repository}/shop", keep_last=1)
