"""A backup exists when its manifest does, and of one that does not, nothing stays."""

import contextlib
import io
import json
import logging
import re
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError
from moto.s3.models import s3_backends

from airflow_pg_s3.core.backup.staged_backup import StagedBackup
from airflow_pg_s3.core.errors import DataConflict, InputError, IntegrityError, StorageError
from airflow_pg_s3.core.repository.backup_id import new_backup_id
from airflow_pg_s3.core.repository.members import Chunk, Chunks, Member, runs_of
from airflow_pg_s3.core.repository.repository import Begun, Repository, read_manifest
from airflow_pg_s3.core.s3.errors import AccessDenied, OutcomeUnknown, explain_refusal
from airflow_pg_s3.core.s3.requests import parse_uri
from tests.support.stored_backups import ID, manifest_of

EARLIER, LATER = "20261121T030000Z-000000", "20261123T030000Z-000000"
PART = 5 << 20
ACCESS_POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint"


@pytest.fixture
def uri(bucket):
    return f"s3://{bucket}/backups/prod"


@pytest.fixture
def repository(s3_client, uri):
    return Repository(s3_client, uri)


@pytest.fixture
def put(s3_client, bucket):
    def put(key, body=b"{}"):
        s3_client.put_object(Bucket=bucket, Key=key, Body=body)

    return put


@pytest.fixture
def put_many(bucket):
    """Store many objects without a request for each."""
    (account,) = [backend["aws"] for backend in s3_backends.values() if bucket in backend["aws"].buckets]

    def put(keys):
        for key in keys:
            account.put_object(bucket, key, b"{}")

    return put


def stage(repository, instance, extra_args=None):
    begun = Begun(backup_id=ID, database="shop", instance=instance)
    return StagedBackup(
        repository, begun, extra_args or {}, cancel=threading.Event(), log=logging.getLogger("staged")
    )


class _Raw(io.BytesIO):
    def stream(self, **_):
        yield self.read()


def answer(status, code):
    """S3's answer to any request."""
    body = f"<Error><Code>{code}</Code><Message>said the test</Message></Error>".encode()
    return lambda request, **_: AWSResponse(request.url, status, {}, _Raw(body))


def lose_answer(s3_client):
    """Let a request take place, but not its answer."""

    def handler(request, **_):
        bucket, key = re.fullmatch(r"http://[^/]+/([^/]+)/(.*)", request.url).groups()
        s3_client.put_object(Bucket=bucket, Key=key, Body=request.body.read())
        raise ReadTimeoutError(endpoint_url=request.url)

    return handler


def fail_to_connect(**_):
    raise ConnectTimeoutError(endpoint_url="s3")


@pytest.fixture
def with_faults(new_s3_client, uri):
    """Make a repository whose client does as told: operation → what happens at each request; None is the truth."""

    def make(attempts=1, **faults):
        client = new_s3_client(retries={"mode": "standard", "total_max_attempts": attempts})
        for operation, handlers in faults.items():
            todo = iter(handlers)

            def handle(request, todo=todo, **_):
                handler = next(todo, None)
                return handler(request=request) if handler else None

            client.meta.events.register(f"before-send.s3.{operation}", handle)
        return Repository(client, uri)

    return make


class TestUris:
    @pytest.mark.parametrize(
        ("uri", "expected"),
        [
            ("s3://bucket", ("bucket", "")),
            ("s3://bucket/", ("bucket", "")),
            ("s3://my.bucket-1/a/b.json", ("my.bucket-1", "a/b.json")),
            ("s3://bucket/a b/ünï/%20", ("bucket", "a b/ünï/%20")),
            ("s3://bucket/new\nline", ("bucket", "new\nline")),
            (f"s3://{ACCESS_POINT}/backups", (f"{ACCESS_POINT}/backups", "")),
            (f"s3://{ACCESS_POINT}:backups/a/b.json", (f"{ACCESS_POINT}:backups", "a/b.json")),
            (
                "s3://arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-01ac5d/accesspoint/ap/a",
                ("arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-01ac5d/accesspoint/ap", "a"),
            ),
        ],
    )
    def test_are_split_into_bucket_and_key(self, uri, expected):
        assert parse_uri(uri, parameter="backup") == expected

    @pytest.mark.parametrize(
        "uri",
        ["", "bucket/key", "s3:/bucket", "s3://", "s3:///key", "S3://bucket", "s3://b", "s3://bu cket/k",
        "s3://-b/k",
         "s3://arn:aws:s3:::bucket/k",
         f"s3://{ACCESS_POINT}", "https://bucket.s3.amazonaws.com/k", " s3://bucket", "s3://bucket?x/k", None, 5, b"s3://bucket"],
    )  # fmt: skip
    def test_that_are_none_are_refused_and_the_argument_is_named(self, uri):
        with pytest.raises(InputError) as caught:
            parse_uri(uri, parameter="repository")
        assert str(caught.value) == f"repository must look like s3://bucket/prefix, not {uri!r}"

    @pytest.mark.parametrize("path", ["a//b", "a/../b", "..", "./a", "a/."])
    def test_of_repositories_hold_no_odd_segments(self, s3_client, path):
        with pytest.raises(InputError, match=r"has an empty, '\.' or '\.\.' path segment"):
            Repository(s3_client, f"s3://bucket/{path}")

    @pytest.mark.parametrize("name", ["latest", "latest-verified/", ID, f"{ID}.json", f"{ID}.verified.json"])
    @pytest.mark.parametrize(("path", "meant"), [("a/shop/", "/a"), ("shop/", ""), ("", "")])
    def test_of_what_backups_are_stored_in_are_no_names_of_backups(self, s3_client, name, path, meant):
        with pytest.raises(
            InputError, match=f"names a backup, and not a repository: did you mean s3://bucket{meant}\\?"
        ):
            Repository(s3_client, f"s3://bucket/{path}{name}").check_access("shop")

    @pytest.mark.parametrize("path", ["latest/shop", "2026", "20261120", "the-latest"])
    def test_of_repositories_may_be_like_them(self, s3_client, bucket, path):
        Repository(s3_client, f"s3://{bucket}/{path}").check_access("shop")

    @pytest.mark.parametrize(
        ("path", "base"),
        [("", "shop/"), ("/", "shop/"), ("/a", "a/shop/"), ("/a/b/", "a/b/shop/"), ("//a", "a/shop/")],
    )
    def test_of_repositories_end_with_or_without_a_slash(self, s3_client, path, base):
        assert Repository(s3_client, f"s3://bucket{path}").base("shop") == base


@pytest.mark.parametrize(
    ("database", "folder"),
    [
        ("shop", "shop"),
        ("hard db", "hard%20db"),
        ("a/b", "a%2Fb"),
        ("ünï", "%C3%BCn%C3%AF"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("...", "%2E%2E%2E"),
        ("a.b", "a.b"),
        ("%2F", "%252F"),
        ("new\nline", "new%0Aline"),
        ("a+b&c=d?e#f", "a%2Bb%26c%3Dd%3Fe%23f"),
    ],
)
def test_a_database_of_any_name_has_a_folder_of_its_own_and_is_found_again(repository, put, database, folder):
    assert repository.base(database) == f"backups/prod/{folder}/"
    put(f"{repository.base(database)}{ID}.json")
    assert repository.databases() == [database]
    assert [ref.backup_id for ref in repository.backups(database)] == [ID]


class TestListing:
    def test_tells_what_there_is(self, repository, put, bucket):
        put(f"backups/prod/shop/{ID}.json", b"x" * 17)
        put(f"backups/prod/shop/{ID}.verified.json")
        put(f"backups/prod/shop/{LATER}.json")
        newer, older = repository.backups("shop")
        assert (newer.backup_id, newer.has_evidence) == (LATER, False)
        assert older.uri == f"s3://{bucket}/backups/prod/shop/{ID}.json"
        assert (older.database, older.backup_id, older.object_bytes, older.has_evidence) == ("shop", ID, 17, True)
        assert older.created_at == datetime(2026, 11, 22, 3, tzinfo=UTC)

    def test_never_shows_what_has_no_manifest_nor_what_is_none(self, repository, put):
        for key in (
            f"{ID}/begun",
            f"{ID}/5.dat.zst",
            f"{ID}/{ID}.json",
            f"{ID}.verified.json",
            f"{ID}.json.tmp",
            f"x{ID}.json",
            "20261322T030000Z-5f3a9c.json",
            "20261122T030000Z-5F3A9C.json",
            "notes.json",
            ".json",
        ):
            put(f"backups/prod/shop/{key}")
        assert repository.backups("shop") == []

    def test_is_newest_first(self, repository, put):
        ids = ["20261122T030000Z-5f3a9c", "20250101T000000Z-ffffff", "20261122T030001Z-000000"]
        for backup_id in ids:
            put(f"backups/prod/shop/{backup_id}.json")
        assert [ref.backup_id for ref in repository.backups("shop")] == sorted(ids, reverse=True)

    def test_does_not_mix_names_that_begin_alike(self, s3_client, bucket, put):
        for key in ("app/shop", "app/shop2", "app_staging/shop", "app/shop/x", "app"):
            put(f"{key}/{ID}.json")
        repository = Repository(s3_client, f"s3://{bucket}/app")
        assert [ref.key for ref in repository.backups("shop")] == [f"app/shop/{ID}.json"]
        assert repository.databases() == ["shop", "shop2"]

    def test_goes_on_after_a_thousand_objects(self, repository, put_many):
        ids = [f"20261122T030000Z-{number:06x}" for number in range(1100)]
        put_many(f"backups/prod/shop/{backup_id}.json" for backup_id in ids)
        put_many(f"backups/prod/db{number}/{ID}.json" for number in range(1100))
        assert [ref.backup_id for ref in repository.backups("shop")] == ids[::-1]
        assert len(repository.databases()) == 1101

    def test_of_an_empty_repository_is_empty(self, repository):
        assert repository.backups("shop") == []
        assert repository.databases() == []
        assert repository.foreign_archives("*") == []

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("*.tar.gz", {"2026/b.tar.gz", "a.tar.gz"}),
            ("a.*", {"a.tar.gz", "a.dump"}),
            ("2026/*", {"2026/b.tar.gz"}),
            ("A.*", set()),
            ("*.sql", set()),
        ],
    )
    def test_of_other_tools_archives_matches_a_pattern(self, repository, put, bucket, pattern, found):
        for key in ("2026/b.tar.gz", "a.tar.gz", "a.dump"):
            put(f"backups/prod/{key}", b"x" * 9)
        put("backups/production/c.tar.gz")
        refs = repository.foreign_archives(pattern)
        assert {ref.uri.removeprefix(f"s3://{bucket}/backups/prod/") for ref in refs} == found
        assert all((ref.database, ref.backup_id, ref.object_bytes) == (None, None, 9) for ref in refs)
        assert refs == sorted(refs, key=lambda ref: ref.created_at, reverse=True)

    @pytest.mark.parametrize(
        ("fault", "error", "message"),
        [
            (answer(403, "AccessDenied"), AccessDenied, r"S3 refuses access to bucket '.*' \(AccessDenied\)"),
            (answer(401, "InvalidAccessKeyId"), AccessDenied, "check the AWS connection's rights"),
            (answer(404, "NoSuchBucket"), AccessDenied, "the bucket '.*' does not exist: create it"),
            (answer(500, "InternalError"), StorageError, "S3 failed on bucket"),
            (fail_to_connect, StorageError, "S3 cannot be reached"),
        ],
    )
    def test_that_fails_says_why(self, with_faults, fault, error, message):
        repository = with_faults(ListObjectsV2=[fault] * 4)
        for ask in (
            lambda: repository.backups("shop"),
            repository.databases,
            lambda: repository.check_access("shop"),
            lambda: repository.foreign_archives("*"),
        ):
            with pytest.raises(error, match=message) as caught:
                ask()
            assert type(caught.value) is error

    def test_of_a_bucket_that_does_not_exist_says_so(self, s3_client):
        with pytest.raises(InputError, match="the bucket 'no-such-bucket' does not exist"):
            Repository(s3_client, "s3://no-such-bucket/x").check_access("shop")


def test_ids_tell_the_time_in_utc_and_differ():
    now = datetime(2026, 11, 22, 5, 30, 7, 999999, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    ids = {new_backup_id(now) for _ in range(5)}
    assert len(ids) == 5
    assert all(re.fullmatch(r"20261122T000007Z-ff[0-9a-f]{4}", backup_id) for backup_id in ids)


def test_ids_of_one_second_sort_by_time():
    times = [
        datetime(2026, 11, 22, 5, 30, 7, microsecond, tzinfo=UTC) for microsecond in range(0, 1_000_000, 10_000)
    ]
    ids = [new_backup_id(time) for time in times]
    assert ids == sorted(ids)


class TestABackupBeingMade:
    def test_says_so_before_anything_else_is_stored(self, repository, s3_client, bucket, keys_of):
        with stage(repository, "7/instance") as staged:
            assert keys_of(bucket) == [f"backups/prod/shop/{ID}/begun"]
            assert (staged.base, staged.folder) == ("backups/prod/shop/", f"backups/prod/shop/{ID}/")
            assert list(repository.abandoned("shop")) == [
                Begun(backup_id=ID, database="shop", instance="7/instance")
            ]
            assert repository.backups("shop") == []

    @pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
    def test_leaves_no_objects_if_it_is_not_committed(self, repository, bucket, put, keys_of, error):
        put("backups/prod/shop/20261122T030000Z-5f3a9c0/other")
        put(f"backups/prod/shop/{LATER}/000001.zst")
        before = keys_of(bucket)

        def make():
            with stage(repository, "i") as staged:
                put(f"{staged.folder}000001.zst")
                if error is not None:
                    raise error

        if error is None:
            make()
        else:
            with pytest.raises(error):
                make()
        assert keys_of(bucket) == before

    def test_that_cannot_be_removed_says_so_beside_the_first_error(self, with_faults, bucket, keys_of):
        repository = with_faults(DeleteObjects=[answer(403, "AccessDenied")])
        with pytest.raises(ValueError, match="first") as caught, stage(repository, "i"):
            raise ValueError("first")
        (note,) = caught.value.__notes__
        assert note.startswith(f"cannot remove what is left in s3://{bucket}/backups/prod/shop/{ID}/: ")
        assert note.endswith("; the next backup of this database will try again")
        assert keys_of(bucket) == [f"backups/prod/shop/{ID}/begun"]

    def test_that_cannot_be_removed_is_an_error_if_there_is_no_other(self, with_faults):
        repository = with_faults(DeleteObjects=[answer(403, "AccessDenied")])
        with pytest.raises(StorageError, match="cannot remove what is left"), stage(repository, "i"):
            pass

    def test_is_not_begun_where_another_is_being_made(self, repository, bucket, keys_of):
        with stage(repository, "theirs") as theirs:
            with (
                pytest.raises(DataConflict, match=f"shop/{ID}/begun exists already"),
                stage(repository, "ours"),
            ):
                pass
            assert keys_of(bucket) == [f"{theirs.folder}begun"]

    def test_stores_all_with_the_extra_arguments(self, repository, s3_client, bucket, put):
        extra = {"ServerSideEncryption": "AES256", "Nonsense": 1, "ContentType": "x/y", "Key": "evil"}
        with stage(repository, "i", extra) as staged:
            assert (
                s3_client.head_object(Bucket=bucket, Key=f"{staged.folder}begun")["ServerSideEncryption"]
                == "AES256"
            )
            put(f"{staged.folder}pack-0001.tar.zst", b"data")
            put(f"{staged.folder}members.json.zst", b"list")
            staged.commit(manifest_of())
        head = s3_client.head_object(Bucket=bucket, Key=staged.manifest_key)
        assert (head["ServerSideEncryption"], head["ContentType"]) == ("AES256", "application/json")


class TestRemoving:
    def test_takes_all_pages_and_the_mark_last(self, repository, put_many, put, bucket, keys_of, with_faults):
        folder = f"backups/prod/shop/{ID}/"
        put_many(f"{folder}blob_{number}.dat" for number in range(1101))
        put(f"{folder}begun")
        # The second of three batches fails: the mark must still be there, so that the rest is found.
        with pytest.raises(StorageError):
            with_faults(DeleteObjects=[None, answer(500, "InternalError")]).remove_data("shop", ID)
        assert f"{folder}begun" in keys_of(bucket)
        assert len(keys_of(bucket)) == 103
        assert repository.remove_data("shop", ID) == 103
        assert keys_of(bucket) == []

    def test_of_nothing_is_no_error(self, repository):
        assert repository.remove_data("shop", ID) == 0

    def test_names_what_could_not_be_deleted(self, with_faults, put, bucket):
        put(f"backups/prod/shop/{ID}/5.dat.zst")
        body = (
            b"<DeleteResult><Error><Key>backups/5.dat.zst</Key><Code>AccessDenied</Code><Message>locked</Message>"
            b"</Error></DeleteResult>"
        )
        repository = with_faults(
            DeleteObjects=[lambda request, **_: AWSResponse(request.url, 200, {}, _Raw(body))]
        )
        with pytest.raises(StorageError, match=r"cannot delete backups/5\.dat\.zst: locked"):
            repository.remove_data("shop", ID)


class TestAbandonedBackups:
    def test_are_those_that_were_begun_and_have_no_manifest(self, repository, put):
        for backup_id in (ID, LATER):
            put(f"backups/prod/shop/{backup_id}/begun", b'{"instance": "i"}')
        put(f"backups/prod/shop/{LATER}.json")
        put(f"backups/prod/other/{ID}/begun", b'{"instance": "i"}')
        assert [begun.backup_id for begun in repository.abandoned("shop")] == [ID]

    @pytest.mark.parametrize("recipients", [(), ("age1a", "age1b")])
    def test_say_for_whom_their_chunks_are_encrypted(self, repository, put, recipients):
        begun = Begun(backup_id=ID, database="shop", instance="i", recipients=recipients)
        put(f"backups/prod/shop/{ID}/begun", begun.to_json())
        assert list(repository.abandoned("shop")) == [begun]

    @pytest.mark.parametrize("record", [b"", b"[]", b"{}", b"null", b'"x"', b"\xff", b"[" * 5000])
    def test_with_a_record_that_is_none_are_left_alone(self, repository, put, record):
        put(f"backups/prod/shop/{ID}/begun", record)
        assert list(repository.abandoned("shop")) == []

    def test_without_a_record_are_left_alone(self, repository, put):
        put(f"backups/prod/shop/{ID}/5.dat.zst")
        put("backups/prod/shop/notes/begun", b'{"instance": "i"}')
        assert list(repository.abandoned("shop")) == []

    def test_whose_record_may_not_be_read_are_an_error_that_says_so(self, with_faults, put):
        put(f"backups/prod/shop/{ID}/begun", b'{"instance": "i"}')
        with pytest.raises(InputError, match="S3 refuses access to bucket"):
            list(with_faults(GetObject=[answer(403, "AccessDenied")]).abandoned("shop"))

    def test_are_not_those_whose_runs_others_may_refer_to(self, repository, put):
        put(f"backups/prod/shop/{ID}/begun", b'{"instance": "i"}')
        put(f"backups/prod/shop/{ID}/settled")
        assert list(repository.abandoned("shop")) == []

    def test_are_told_from_committed_ones_or_else_it_is_an_error(self, repository, with_faults, put):
        assert not repository.is_committed("shop", ID)
        put(f"backups/prod/shop/{ID}.json")
        assert repository.is_committed("shop", ID)
        for fault in (answer(403, "Forbidden"), answer(500, "InternalError"), fail_to_connect):
            with pytest.raises(StorageError, match=f"cannot tell whether backup {ID} is complete"):
                with_faults(HeadObject=[fault]).is_committed("shop", ID)


class TestCommitting:
    @pytest.fixture
    def commit(self, put):
        """Make a backup of one object in a repository, and commit it."""

        def commit(repository, manifest=None):
            with stage(repository, "i") as staged:
                put(f"{staged.folder}pack-0001.tar.zst", b"data")
                put(f"{staged.folder}members.json.zst", b"list")
                staged.commit(manifest or manifest_of())

        return commit

    def test_makes_the_backup_exist(self, repository, commit, s3_client, bucket, keys_of):
        commit(repository)
        folder = f"backups/prod/shop/{ID}"
        assert keys_of(bucket) == [
            f"{folder}.json",
            f"{folder}/members.json.zst",
            f"{folder}/pack-0001.tar.zst",
            f"{folder}/settled",
        ]
        (ref,) = repository.backups("shop")
        assert read_manifest(s3_client, ref.uri)[:2] == (manifest_of(), "backups/prod/shop/")
        assert list(repository.abandoned("shop")) == []

    def test_lasts_whatever_happens_afterwards(self, repository, put, bucket, keys_of):
        with contextlib.suppress(KeyboardInterrupt), stage(repository, "i") as staged:
            put(f"{staged.folder}pack-0001.tar.zst", b"data")
            put(f"{staged.folder}members.json.zst", b"list")
            staged.commit(manifest_of())
            raise KeyboardInterrupt
        names = {key.removeprefix(staged.folder) for key in keys_of(bucket)}
        assert names == {staged.manifest_key, "members.json.zst", "pack-0001.tar.zst", "begun"}

    @pytest.mark.parametrize(
        "facts",
        [
            pytest.param({"runs": {ID: [[1, 1]]}}, id="a run is missing"),
            pytest.param({"runs": {EARLIER: [[2, 2]]}}, id="a run of another backup is missing"),
            pytest.param(
                {"packs": [{"key": f"{ID}/pack-0001.tar.zst", "stored_bytes": 5}]}, id="a pack is shorter"
            ),
            pytest.param(
                {"members": {"stored_bytes": 5, "raw_bytes": 4, "sha256": "0" * 64}}, id="the list is shorter"
            ),
        ],
    )
    def test_is_refused_unless_all_objects_are_there(self, repository, commit, put, bucket, keys_of, facts):
        put(f"backups/prod/shop/{EARLIER}/000001.zst", b"run")
        with pytest.raises(
            StorageError, match="1 objects are not as they were stored, such as backups/prod/shop/"
        ):
            commit(repository, manifest_of(**facts))
        assert keys_of(bucket) == [f"backups/prod/shop/{EARLIER}/000001.zst"]

    @pytest.mark.parametrize(("size", "is_enough"), [(2, False), (3, True), (4, True)])
    def test_is_refused_if_a_run_ends_before_its_chunks_do(self, repository, put, size, is_enough):
        put(f"backups/prod/shop/{EARLIER}/000001.zst", b"x" * size)
        chunks = Chunks()
        chunks.append(Chunk(b"d" * 32, 10, f"{EARLIER}/000001.zst", 1, 2))
        members = [Member(name="5.dat", raw_bytes=10, chunks=chunks)]
        with contextlib.ExitStack() as stack:
            staged = stack.enter_context(stage(repository, "i"))
            if not is_enough:
                stack.enter_context(pytest.raises(StorageError, match=f"such as .*{EARLIER}/000001.zst"))
            put(f"{staged.folder}pack-0001.tar.zst", b"data")
            record = staged.store_members(members, runs_of(members))
            staged.commit(manifest_of(members=record, runs={EARLIER: [[1, 1]]}))
        assert len(repository.backups("shop")) == is_enough

    def test_is_refused_if_there_is_a_manifest_of_somebody_else(
        self, repository, commit, put, s3_client, bucket, keys_of
    ):
        put(f"backups/prod/shop/{ID}.json", b"theirs")
        with pytest.raises(DataConflict, match=rf"shop/{ID}\.json exists already, and is not ours"):
            commit(repository)
        assert keys_of(bucket) == [f"backups/prod/shop/{ID}.json"]
        assert s3_client.get_object(Bucket=bucket, Key=f"backups/prod/shop/{ID}.json")["Body"].read() == b"theirs"

    def test_twice_is_refused_for_another_manifest_and_the_first_lasts(self, repository, put, s3_client):
        with stage(repository, "i") as staged:
            put(f"{staged.folder}pack-0001.tar.zst", b"data")
            put(f"{staged.folder}members.json.zst", b"list")
            staged.commit(manifest_of())
            with pytest.raises(DataConflict):
                staged.commit(manifest_of(rows=1))
        assert read_manifest(s3_client, repository.uri(staged.manifest_key))[0].rows == 0

    def test_does_not_begin_where_a_manifest_is(self, repository, commit, put, bucket, keys_of):
        put(f"backups/prod/shop/{ID}.json", manifest_of().to_json())
        with pytest.raises(DataConflict, match="exists already, and is not ours"):
            commit(repository)
        assert keys_of(bucket) == [f"backups/prod/shop/{ID}.json"]

    def test_recognises_its_own_manifest_if_no_attempt_got_an_answer(
        self, with_faults, commit, s3_client, keys_of, bucket
    ):
        commit(with_faults(PutObject=[None, None, lose_answer(s3_client)]))
        assert len(keys_of(bucket)) == 4

    def test_recognises_its_own_manifest_if_a_second_attempt_met_the_first(
        self, with_faults, commit, s3_client, keys_of, bucket
    ):
        commit(with_faults(attempts=2, PutObject=[None, None, lose_answer(s3_client)]))
        assert len(keys_of(bucket)) == 4

    @pytest.mark.parametrize(
        ("status", "code"), [(403, "AccessDenied"), (400, "InvalidArgument"), (404, "NoSuchBucket")]
    )
    def test_removes_the_data_if_s3_clearly_refuses(self, with_faults, commit, keys_of, bucket, status, code):
        with pytest.raises(StorageError, match=rf"cannot write .*{ID}\.json: .*{code}") as caught:
            commit(with_faults(PutObject=[None, None, answer(status, code)]))
        assert type(caught.value) is StorageError
        assert keys_of(bucket) == []

    @pytest.mark.parametrize(
        "faults",
        [
            pytest.param({"PutObject": [None, None, fail_to_connect]}, id="no answer"),
            pytest.param({"PutObject": [None, None, answer(500, "InternalError")]}, id="S3 fails"),
            pytest.param({"PutObject": [None, None, answer(503, "SlowDown")]}, id="S3 is busy"),
            pytest.param(
                {"PutObject": [None, None, answer(409, "ConditionalRequestConflict")]}, id="one is under way"
            ),
            pytest.param(
                {"attempts": 2, "PutObject": [None, None, fail_to_connect, answer(403, "ExpiredToken")]},
                id="a no to the second attempt only",
            ),
            pytest.param(
                {"attempts": 2, "PutObject": [None, None, fail_to_connect, answer(412, "PreconditionFailed")],
                 "GetObject": [None, answer(403, "AccessDenied")]},
                id="something is there that may not be read",
            ),
        ],
    )  # fmt: skip
    def test_keeps_the_data_if_the_manifest_may_still_come_to_exist(
        self, with_faults, commit, keys_of, bucket, faults
    ):
        with pytest.raises(OutcomeUnknown, match=rf"cannot write .*{ID}\.json"):
            commit(with_faults(**faults))
        names = {key.rpartition("/")[2] for key in keys_of(bucket)}
        assert names == {"begun", "members.json.zst", "pack-0001.tar.zst"}

    def test_keeps_the_data_if_it_is_interrupted(self, with_faults, commit, keys_of, bucket):
        def interrupt(**_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            commit(with_faults(PutObject=[None, None, interrupt]))
        assert len(keys_of(bucket)) == 3

    def test_does_not_fail_over_the_mark_that_stays(self, with_faults, commit, keys_of, bucket):
        repository = with_faults(DeleteObject=[answer(403, "AccessDenied")])
        commit(repository)
        assert f"backups/prod/shop/{ID}/begun" in keys_of(bucket)
        assert list(repository.abandoned("shop")) == []


class TestReadingAManifest:
    @pytest.fixture
    def at(self, put, bucket):
        def put_at(key, body):
            put(key, body)
            return f"s3://{bucket}/{key}"

        return put_at

    def test_tells_what_keys_are_relative_to(self, s3_client, at):
        body = manifest_of().to_json()
        assert read_manifest(s3_client, at(f"a b/c/{ID}.json", body))[:2] == (manifest_of(), "a b/c/")
        assert read_manifest(s3_client, at(f"{ID}.json", body))[:2] == (manifest_of(), "")

    def test_that_does_not_exist_is_an_input_error(self, s3_client, uri):
        with pytest.raises(InputError, match=f"there is no backup {uri}/shop/x.json: list the backups"):
            read_manifest(s3_client, f"{uri}/shop/x.json")

    def test_in_a_bucket_that_does_not_exist_is_an_input_error(self, s3_client):
        with pytest.raises(InputError, match="the bucket 'no-such-bucket' does not exist"):
            read_manifest(s3_client, "s3://no-such-bucket/x.json")

    def test_under_a_name_that_is_not_its_own_is_refused(self, s3_client, at):
        uri = at(f"shop/{LATER}.json", manifest_of().to_json())
        with pytest.raises(IntegrityError, match=f"{uri} is the manifest of another backup, {ID}"):
            read_manifest(s3_client, uri)

    def test_that_is_none_is_refused_and_named(self, s3_client, at):
        uri = at("dump.tar.gz", b"\x1f\x8b" + bytes(1000))
        with pytest.raises(IntegrityError, match=f"{uri} is not a manifest"):
            read_manifest(s3_client, uri)

    def test_of_a_later_format_says_to_upgrade(self, s3_client, at):
        with pytest.raises(InputError, match=r"has format 2.*upgrade it"):
            read_manifest(s3_client, at(f"{ID}.json", json.dumps({"format": 2}).encode()))

    def test_that_is_absurdly_long_is_not_read(self, with_faults, uri):
        def endless(request, **_):
            return AWSResponse(request.url, 200, {"content-length": str(1 << 40)}, _Raw(b"{}"))

        with pytest.raises(IntegrityError, match=f"is no manifest: it has {1 << 40} bytes"):
            read_manifest(with_faults(GetObject=[endless]).client, f"{uri}/{ID}.json")

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (answer(403, "AccessDenied"), AccessDenied),
            (answer(500, "InternalError"), StorageError),
            (fail_to_connect, StorageError),
        ],
    )
    def test_that_cannot_be_read_says_why(self, with_faults, uri, fault, error):
        with pytest.raises(error) as caught:
            read_manifest(with_faults(GetObject=[fault]).client, f"{uri}/{ID}.json")
        assert type(caught.value) is error


def test_a_refusal_is_explained_without_the_requests_secrets(s3_client, bucket):
    with pytest.raises(s3_client.exceptions.NoSuchKey) as caught:
        s3_client.get_object(Bucket=bucket, Key="x")
    assert isinstance(explain_refusal(caught.value, bucket), StorageError)
