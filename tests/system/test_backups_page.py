"""Airflow's own API server serves the Backups page, to those who may see it."""

import json
import warnings

import pytest

from tests.support.airflow_versions import since

pytestmark = since(3, 1, "place for the Backups page")


@pytest.fixture
def server(airflow_database, monkeypatch):
    """The API server in this process, with users of its own."""
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "False")
    monkeypatch.setenv(
        "AIRFLOW__PG_S3__REPOSITORIES", json.dumps([{"name": "shown", "uri": "s3://bucket/prefix"}])
    )
    from airflow.api_fastapi import app

    app.purge_cached_app()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about httpx
        from fastapi.testclient import TestClient

        yield TestClient(app.create_app(apps="core"))
    app.purge_cached_app()


@pytest.fixture
def token(server):
    """Token of a viewer."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="someone", role="viewer"))


def test_users_see_the_page_and_others_do_not(server, token):
    for route in ("", "page.js", "api/repositories"):
        assert server.get(f"/pg-s3/{route}").status_code == 401
        assert server.get(f"/pg-s3/{route}", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert server.get(f"/pg-s3/{route}", headers={"Cookie": f"_token={token}"}).status_code == 200
    # A browser is sent to Airflow's login, and from there back.
    sent = server.get("/pg-s3/", headers={"Accept": "text/html"}, follow_redirects=False)
    login = sent.headers["location"]
    assert (sent.status_code, login) == (307, "../api/v2/auth/login?next=http%3A%2F%2Ftestserver%2Fpg-s3%2F")
    assert server.get("/" + login.removeprefix("../"), follow_redirects=False).status_code == 307
    shown = server.get("/pg-s3/api/repositories", headers={"Cookie": f"_token={token}"})
    assert [repository["name"] for repository in shown.json()] == ["shown"]


def test_airflow_has_it_in_its_navigation(server, token):
    plugins = server.get("/api/v2/plugins", headers={"Authorization": f"Bearer {token}"}).json()["plugins"]
    (views,) = [plugin["external_views"] for plugin in plugins if plugin["name"] == "pg_s3_backups"]
    assert [(view["name"], view["destination"], view["href"]) for view in views] == [("Backups", "nav", "pg-s3/")]
