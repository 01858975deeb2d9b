"""`make screenshots`: the Backups page as docs and README show it, of imaginary backups, in Debian's Chromium.

With a folder as its argument, it puts every state of the page there instead, light and dark, wide and narrow, to
be looked at after each change of the page; further arguments choose states, such as `orders`.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from demo.imaginary import Life, put
from testkit.s3 import Moto
from testkit.sandbox import free_port

IMAGES = Path(__file__).parents[1] / "docs/images"
CHROMIUM = "/usr/bin/chromium"
# Airflow's navigation leaves 320 of a phone's 390 pixels.
WIDE, NARROW = (1400, 900), (320, 844)
# What sticks out of its element, and of the window, without a way to scroll to it.
STICKING_OUT = """body => [body.parentElement, ...body.querySelectorAll("*")]
  .filter((e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "visible")
  .map((e) => `${e.tagName} ${e.className}`)"""
LONG = "a_database_whose_name_has_exactly_as_many_bytes_as_fit_into_one"
LONG_LABEL = {"why": "before the migration of " + "everything " * 12, "release": "2026.11.4"}
REPOSITORIES = {
    "production": ("production", "26h"),
    "analytics": ("analytics", "8d"),
    "states": ("states", "26h"),
    "nothing": ("nothing", None),
}
SHOWN = [
    Life(database="billing", raw_bytes=3_200_000_000, backups=90),
    Life(database="customers", raw_bytes=640_000_000, backups=90, outcomes=(None, "verified")),
    Life(
        database="orders",
        raw_bytes=18_400_000_000,
        backups=120,
        labels={"release": "2026.11.4"},
        outcomes=["verified", "verified", None, "verified"] * 30,
    ),
]
WAREHOUSE = Life(database="warehouse", raw_bytes=412_000_000_000, backups=60, age=timedelta(days=2))
STATES = [
    Life(database="one", raw_bytes=4_200, backups=1, outcomes=(), tables=["t"]),
    Life(database="five hundred", raw_bytes=900_000_000, backups=500, outcomes=["verified"] * 20),
    Life(
        database="failed", raw_bytes=700_000_000, backups=12, outcomes=("failed", "could not verify", "verified")
    ),
    Life(
        database="late and unsure",
        raw_bytes=10**9,
        backups=3,
        age=timedelta(days=9),
        outcomes=("could not verify",),
    ),
    Life(
        database=LONG,
        raw_bytes=1_500_000_000,
        backups=20,
        tables=[f"{LONG[:50]}.{LONG[:40]}_{n}_<b>x</b>" for n in range(40)],
        labels=LONG_LABEL,
    ),
]


def main(folder: Path | None, *only: str) -> int:
    """Take the screenshots."""
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).exists():
        sys.exit(f"{CHROMIUM} is missing: sudo make tools")
    problems = []
    with Moto() as s3, served(s3, everything=folder is not None) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, view, size, theme in views(s3, everything=folder is not None):
            if only and not any(name.startswith(one) for one in only):
                continue
            page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
            page.goto(f"{url}/pg-s3/#{view}")
            page.locator(".waiting").first.wait_for(state="detached")
            page.wait_for_load_state("networkidle")
            if name.startswith("dialog"):
                page.get_by_role("button", name="Restore…").click()
                page.get_by_label("Replace the database").check()
                page.get_by_label("Into the server").fill("staging_server")
                page.get_by_role("button", name="Continue").click()
            path = (folder or IMAGES) / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=path, full_page=folder is not None)
            print(path)
            if found := page.locator("body").evaluate(STICKING_OUT):
                problems.append(path)
                print("  sticks out:", *found, sep="\n    ")
            page.close()
        browser.close()
    return int(bool(problems))


def views(s3: Moto, *, everything: bool) -> Iterator[tuple[str, str, tuple[int, int], Any]]:
    """Yield name, hash, size and theme of each screenshot."""
    newest = max(key for key in _keys(s3, "production/orders/"))
    backup = f"production/orders/{newest.rpartition('/')[2].removesuffix('.json')}"
    if not everything:
        yield "backups-page", "", (1400, 560), "light"
        yield "backups-page-database", "production/orders", (1400, 820), "light"
        return
    failed = max(key for key in _keys(s3, "states/failed/")).rpartition("/")[2].removesuffix(".json")
    long = max(key for key in _keys(s3, f"states/{LONG}/")).rpartition("/")[2].removesuffix(".json")
    found = {
        "overview": "",
        "orders": "production/orders",
        "backup": backup,
        "dialog": backup,
        "one": "states/one",
        "five-hundred": "states/five%20hundred",
        "failed": "states/failed",
        "failed-backup": f"states/failed/{failed}",
        "long": f"states/{quote(LONG)}",
        "long-backup": f"states/{quote(LONG)}/{long}",
        "nothing": "nothing/x",
        "broken": "broken/x",
    }
    for name, view in found.items():
        for theme in ("light", "dark"):
            yield f"{name}-{theme}", view, WIDE, theme
            yield f"{name}-{theme}-narrow", view, NARROW, theme


def _keys(s3: Moto, prefix: str) -> list[str]:
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket="backups", Prefix=prefix, Delimiter="/")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return [key for key in keys if not key.endswith(".verified.json")]


@contextmanager
def served(s3: Moto, *, everything: bool) -> Iterator[str]:
    """Serve the page without Airflow and without asking who looks; its address."""
    s3.create_bucket("backups")
    named = [
        {"name": name, "uri": f"s3://backups/{prefix}", "aws_conn_id": "account", "max_age": max_age}
        for name, (prefix, max_age) in REPOSITORIES.items()
        if everything or name in ("production", "analytics")
    ]
    if everything:
        named.append({"name": "broken", "uri": "s3://no-such-bucket/backups", "aws_conn_id": "account"})
    os.environ["AIRFLOW__PG_S3__REPOSITORIES"] = json.dumps(named)
    os.environ["AIRFLOW_CONN_ACCOUNT"] = s3.airflow_connection()
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

    import uvicorn
    from fastapi import FastAPI

    from airflow_pg_s3 import form_fields
    from airflow_pg_s3.core.repository.repository import Repository
    from airflow_pg_s3.plugin import api

    for prefix, lives in {"production": SHOWN, "analytics": [WAREHOUSE], "states": STATES}.items():
        repository = Repository(s3.client(), f"s3://backups/{prefix}")
        for life in lives if everything or prefix != "states" else []:
            put(repository, life)
    api.app.dependency_overrides[api.may_see] = lambda: None
    around = FastAPI()
    around.mount("/pg-s3", api.app)

    @around.get("/api/v2/dags/{dag_id}/details")
    def details(dag_id: str) -> dict[str, Any]:
        fields = {"target_conn_id": form_fields.target_conn_id(), **form_fields.rights()}
        params = {name: field.serialize() for name, field in fields.items()}
        return {"dag_id": dag_id, "is_paused": False, "params": params}

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(around, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None, *sys.argv[2:]))
