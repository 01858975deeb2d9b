"""The routes of the Backups page: who may see them, and what they answer."""

import json
import socket
import threading
import warnings
from datetime import UTC, datetime, timedelta

import pytest
from airflow.api_fastapi.app import create_auth_manager, purge_cached_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.providers.common.compat.sdk import mask_secret
from fastapi.testclient import TestClient
from jwt import InvalidTokenError

from airflow_pg_s3.core.errors import StorageError
from airflow_pg_s3.core.repository.repository import Repository, read_manifest
from airflow_pg_s3.plugin import api, overview
from airflow_pg_s3.plugin.answers import Answers
from demo.imaginary import Life, put
from tests.support.stored_backups import FAILED, RESTORED, UNSURE, Shelf

NOW = datetime.now(UTC).replace(microsecond=0)
NIGHT = timedelta(days=1)
HOSTILE = "</script><img src=x onerror=alert(1)>"
LONG = "ü/" + 57 * "x" + "'%"  # 62 bytes
ID = "20261122T030000Z-5f3a9c"
PARAMETERS = {"repository": "production", "database": "shop", "backup_id": ID}
ROUTES = sorted(route.path for router in (api.files, api.data) for route in router.routes)


@pytest.fixture
def anyone(monkeypatch):
    """A client of nobody. Tokens are not signed, but name roles of Airflow's simple auth manager."""
    auth_manager = create_auth_manager()

    async def user_from(token):
        if token not in ("viewer", "nobody"):
            raise InvalidTokenError
        return SimpleAuthManagerUser(username="someone", role=token if token == "viewer" else None)

    monkeypatch.setattr(auth_manager, "get_user_from_token", user_from)
    # Answers are not those of another test.
    monkeypatch.setattr(api, "answers", Answers())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about httpx
        yield TestClient(api.app)
    purge_cached_app()


@pytest.fixture
def get(anyone):
    """(route, **parameters) → answer to a viewer."""
    headers = {"Authorization": "Bearer viewer"}
    return lambda route, **parameters: anyone.get(f"/api/{route}", params=parameters, headers=headers)


@pytest.fixture
def configure(monkeypatch, s3_url):
    """Name repositories; their connection leads to the S3 server of the tests."""

    def configure(*named, endpoint_url=s3_url):
        monkeypatch.setenv("AIRFLOW__PG_S3__REPOSITORIES", json.dumps(named))
        connection = {
            "conn_type": "aws",
            "login": "test",
            "password": "secret-of-the-account",
            "extra": {
                "endpoint_url": endpoint_url,
                "region_name": "us-east-1",
                "config_kwargs": {"s3": {"addressing_style": "path"}},
            },
        }
        monkeypatch.setenv("AIRFLOW_CONN_ACCOUNT", json.dumps(connection))

    return configure


@pytest.fixture
def shelf(s3_client, bucket, configure):
    """The repository ``production``, whose rule is 26 hours."""
    uri = f"s3://{bucket}/prod"
    configure({"name": "production", "uri": uri, "aws_conn_id": "account", "max_age": "26h"})
    return Shelf(s3_client, uri)


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_shown_to_who_is_not_logged_in_or_may_read_no_assets(anyone, route):
    assert anyone.get(route, params=PARAMETERS).status_code == 401
    for headers in ({"Authorization": "Bearer nobody"}, {"Cookie": "_token=nobody"}):
        answer = anyone.get(route, params=PARAMETERS, headers=headers)
        assert (answer.status_code, "assets" in answer.json()["detail"]) == (403, True)
        assert "script-src 'self';" in answer.headers["content-security-policy"]
    assert anyone.get(route, params=PARAMETERS, headers={"Authorization": "Bearer x"}).status_code == 403


@pytest.mark.parametrize("name", api.FILES)
def test_the_page_needs_nothing_but_its_own_files(anyone, name):
    answer = anyone.get(f"/{name}", headers={"Cookie": "_token=viewer"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(api.FILES[name])
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    text = answer.text.replace("http://www.w3.org/2000/svg", "")
    assert not any(outside in text for outside in ("http://", "https://", "innerHTML", "style="))


def test_repositories_are_those_of_the_option_and_their_rules(get, configure):
    configure(
        {"name": "a", "uri": "s3://one/x", "aws_conn_id": "account", "max_age": "26h"},
        {"name": "b", "uri": "s3://two"},
    )
    assert get("repositories").json() == [
        {"name": "a", "uri": "s3://one/x", "aws_conn_id": "account", "max_age_seconds": 26 * 3600.0},
        {"name": "b", "uri": "s3://two", "aws_conn_id": "aws_default", "max_age_seconds": None},
    ]


def test_of_each_database_the_newest_backup_and_the_newest_verified_one_are_shown(get, shelf):
    verified = shelf.put_backup("orders", NOW - NIGHT)
    shelf.put_evidence("orders", verified, UNSURE, RESTORED, at=NOW)
    newest = shelf.put_backup("orders", NOW - timedelta(hours=1))
    shelf.put_evidence("orders", newest, FAILED, RESTORED, at=NOW)
    shelf.put_backup("late", NOW - 2 * NIGHT)
    shelf.put("begun/20261122T030000Z-5f3a9c/begun")
    answer = get("databases", repository="production").json()["answer"]
    begun, late, orders = answer["databases"]
    assert (begun["name"], begun["newest"], begun["is_fresh"]) == ("begun", None, False)
    assert (late["newest_verified"], late["is_fresh"]) == (None, False)
    assert (orders["newest"]["backup_id"], orders["is_fresh"]) == (newest, True)
    assert (orders["newest"]["verdict"]["outcome"], orders["newest"]["proof"]) == ("failed", None)
    assert orders["newest_verified"]["backup_id"] == verified
    assert orders["newest_verified"]["proof"]["outcome"] == "verified"
    assert orders["newest_verified"]["verdict"]["outcome"] == "could not verify"


def test_without_a_rule_nothing_is_said_of_freshness(get, shelf, configure, bucket):
    shelf.put_backup("orders", NOW - 300 * NIGHT)
    configure({"name": "production", "uri": f"s3://{bucket}/prod", "aws_conn_id": "account"})
    (orders,) = get("databases", repository="production").json()["answer"]["databases"]
    assert orders["is_fresh"] is None


def test_backups_come_in_parts_and_none_is_lost_between_them(get, shelf):
    made = [shelf.put_backup("shop", NOW - n * NIGHT, n) for n in range(2 * overview.PAGE + 3)]
    before, shown = None, []
    for length in (overview.PAGE, overview.PAGE, 3):
        given = {} if before is None else {"before": before}
        part = get("backups", repository="production", database="shop", **given).json()["answer"]
        assert len(part["backups"]) == length
        shown += [backup["backup_id"] for backup in part["backups"]]
        before = part["before"]
    assert (shown, before) == (made, None)
    plotted = get("history", repository="production", database="shop").json()["answer"]["backups"]
    assert [backup["backup_id"] for backup in plotted] == made


def test_names_and_labels_are_given_out_as_they_are(get, shelf, s3_client, bucket):
    repository = Repository(s3_client, f"s3://{bucket}/prod")
    life = Life(
        database=LONG, raw_bytes=10**6, backups=1, tables=[HOSTILE], labels={"hold": "audit", "why": HOSTILE}
    )
    put(repository, life)
    (database,) = get("databases", repository="production").json()["answer"]["databases"]
    assert database["name"] == database["newest"]["database"] == LONG
    assert (database["newest"]["labels"]["why"], database["newest"]["hold"]) == (HOSTILE, "audit")
    given = {"repository": "production", "database": LONG, "backup_id": database["newest"]["backup_id"]}
    details = get("backup", **given).json()["answer"]
    assert [table["name"] for table in details["tables"]] == [HOSTILE]


def test_one_backup_is_shown_as_its_manifest_and_evidence_tell(get, shelf, s3_client, bucket):
    put(
        Repository(s3_client, f"s3://{bucket}/prod"),
        Life(database="shop", raw_bytes=5 * 10**8, backups=1, outcomes=["failed"]),
    )
    (backup,) = get("backups", repository="production", database="shop").json()["answer"]["backups"]
    stored = read_manifest(s3_client, backup["uri"]).manifest
    given = {"repository": "production", "database": "shop", "backup_id": backup["backup_id"]}
    details = get("backup", **given).json()["answer"]
    assert details["backup"] == backup
    assert (backup["stored_bytes"], backup["raw_bytes"]) == (stored.stored_bytes, stored.raw_bytes)
    assert (details["tables"][0]["name"], details["tables"][0]["raw_bytes"]) == ("orders", stored.raw_bytes // 2)
    assert details["all_tables"] == stored.tables == 8
    assert details["verifications"][0]["outcome"] == "failed"
    assert details["verifications"][0]["differences"][0]["name"] == "shop.payments"
    assert f"BACKUP={backup['backup_id']}" in details["commands"][-1]["text"]
    assert get("manifest", **given).text == stored.to_json().decode()


def test_a_damaged_backup_is_named_and_hides_no_other(get, shelf):
    good = shelf.put_backup("shop", NOW - NIGHT)
    shelf.put("shop/20261122T030000Z-5f3a9c.json", b"{}")
    answer = get("backups", repository="production", database="shop").json()["answer"]
    assert [backup["backup_id"] for backup in answer["backups"]] == [good]
    assert [ID in warning for warning in answer["warnings"]] == [True]
    assert get("manifest", **PARAMETERS).content == b"{}"


@pytest.mark.parametrize(
    ("route", "given", "status", "sentence"),
    [
        ("databases", {"repository": "unknown"}, 404, "no repository 'unknown'"),
        ("databases", {"repository": "broken"}, 502, "the bucket 'no-such-bucket' does not exist: create it"),
        ("databases", {"repository": "no-connection"}, 502, "the Airflow connection 'missing' does not exist"),
        ("backup", PARAMETERS, 404, f"no backup {ID} of 'shop'"),
        ("manifest", PARAMETERS, 404, f"no backup {ID} of 'shop'"),
        ("backup", PARAMETERS | {"backup_id": "../../x"}, 422, ""),
        ("backups", PARAMETERS | {"before": "yesterday"}, 422, ""),
        ("databases", {}, 422, ""),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(get, shelf, configure, bucket, route, given, status, sentence):
    configure(
        {"name": "production", "uri": f"s3://{bucket}/prod", "aws_conn_id": "account"},
        {"name": "broken", "uri": "s3://no-such-bucket/x", "aws_conn_id": "account"},
        {"name": "no-connection", "uri": "s3://bucket/x", "aws_conn_id": "missing"},
    )
    answer = get(route, **given)
    assert (answer.status_code, sentence in str(answer.json()["detail"])) == (status, True)


def test_a_wrong_option_is_a_sentence(get, monkeypatch):
    monkeypatch.setenv("AIRFLOW__PG_S3__REPOSITORIES", "production")
    answer = get("repositories")
    assert (answer.status_code, "is not JSON" in answer.json()["detail"]) == (502, True)


def test_secrets_in_errors_are_masked(get, shelf, monkeypatch):
    # No part of it is masked by another test of this process.
    mask_secret("k7Qz-4fWb-9xTn")

    def refuse(name):
        raise StorageError("S3 refuses the key k7Qz-4fWb-9xTn")

    monkeypatch.setattr(overview, "databases", refuse)
    assert get("databases", repository="production").json() == {"detail": "S3 refuses the key ***"}


def test_a_store_that_does_not_answer_is_a_sentence_and_its_answer_is_kept(get, shelf, monkeypatch):
    monkeypatch.setattr(api, "answers", Answers(patience_seconds=0.05))
    answered, asked = threading.Event(), []

    def slow(name):
        asked.append(name)
        answered.wait()
        return "answer"

    monkeypatch.setattr(overview, "databases", slow)
    for _ in range(3):
        answer = get("databases", repository="production")
        assert (answer.status_code, "S3 has not answered within" in answer.json()["detail"]) == (504, True)
    assert get("repositories").status_code == 200
    answered.set()
    answer = get("databases", repository="production")
    assert (answer.json()["answer"], asked) == ("answer", ["production"])


def test_what_s3_has_said_is_kept_for_a_while_and_says_how_old_it_is(get, shelf, monkeypatch):
    shelf.put_backup("shop", NOW)
    given = {"repository": "production", "database": "shop"}
    assert len(get("backups", **given).json()["answer"]["backups"]) == 1
    shelf.put_backup("shop", NOW - NIGHT)
    kept = get("backups", **given).json()
    assert (len(kept["answer"]["backups"]), 0 <= kept["age_seconds"] < 15) == (1, True)
    monkeypatch.setattr(api, "answers", Answers(kept_seconds=0))
    assert len(get("backups", **given).json()["answer"]["backups"]) == 2


def test_a_closed_port_is_a_sentence_after_few_seconds(get, shelf, configure):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    configure(
        {"name": "production", "uri": "s3://bucket/x", "aws_conn_id": "account"},
        endpoint_url=f"http://127.0.0.1:{port}",
    )
    answer = get("databases", repository="production")
    assert (answer.status_code, "S3 cannot be reached" in answer.json()["detail"]) == (502, True)


def test_the_page_waits_less_than_a_worker_and_keeps_the_connections_settings(shelf):
    with overview._opened("production") as (_, opened, _):
        config = opened.client.meta.config
    assert (config.read_timeout, config.connect_timeout, config.retries["total_max_attempts"]) == (8, 4, 2)
    assert config.s3["addressing_style"] == "path"
