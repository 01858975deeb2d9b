"""The shipped DAGs and the Backups page in a real `airflow standalone`; nothing of it runs in this process."""

import json
import os
import re
import selectors
import signal
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from airflow_pg_s3.core.reporting import human
from airflow_pg_s3.core.repository.repository import Repository, read_manifest
from demo.screenshots import STICKING_OUT
from testkit.airflow_standalone import Standalone, wait_until
from testkit.databases import create_bulk_database
from tests.support.airflow_versions import VERSION, since
from tests.support.browser import open_browser
from tests.support.sampling import sample
from tests.support.stored_backups import ID, manifest_of

BUCKET = "standalone"
REPOSITORY = f"s3://{BUCKET}/backups"
SHOWN = {"name": "shown", "uri": REPOSITORY, "aws_conn_id": "account_of_the_page", "max_age": "26h"}
# What a connection carries while the road is blocked: more than a run of chunks, less than the table.
BYTES_BEFORE_THE_BLOCK = 100_000_000
# Longer than a task takes to come to the block, on a slow machine.
SECONDS_BEFORE_THE_TIMEOUT = 40
TIMEOUT_DAG = f"""
from datetime import timedelta
from airflow.sdk import DAG
from airflow_pg_s3.operators.backup import PgS3BackupOperator

with DAG(dag_id="ends_at_its_timeout", schedule=None):
    PgS3BackupOperator(
        task_id="backup", repository="{REPOSITORY}", postgres_conn_id="blocked_source", database="big",
        execution_timeout=timedelta(seconds={SECONDS_BEFORE_THE_TIMEOUT}),
    )
"""


class Road:
    """A TCP proxy; while it is blocked, each connection comes to a standstill after so many bytes."""

    def __init__(self, port):
        self.open = threading.Event()
        self.open.set()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client, server):
        carried = 0
        with client, server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    try:
                        chunk = key.fileobj.recv(65536)
                        key.data.sendall(chunk)
                    except OSError:
                        return
                    if not chunk:
                        return
                    carried += len(chunk)
                    if carried > BYTES_BEFORE_THE_BLOCK:
                        self.open.wait()


@pytest.fixture(scope="module")
def road(pg18):
    """A way to the source that can be blocked."""
    road = Road(pg18.port)
    yield road
    road.open.set()
    road.close()


@pytest.fixture(scope="module")
def standalone(pg18, moto, road, tmp_path_factory):
    """Airflow with the shipped DAGs; the backup is scheduled, once and at once."""
    moto.create_bucket(BUCKET)
    pg18.create_database("nightly")
    pg18.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n", "nightly")
    pg18.psql("ALTER TABLE t OWNER TO pg_monitor", "nightly")
    blocked_source = json.loads(pg18.airflow_connection("nightly")) | {"port": road.port}
    airflow = Standalone(
        tmp_path_factory.mktemp("standalone"),
        {
            "AIRFLOW__PG_S3__CLIENT_PATH": str(pg18.pg_bin),
            "AIRFLOW_CONN_POSTGRES_DEFAULT": pg18.airflow_connection("nightly"),
            "AIRFLOW_CONN_AWS_DEFAULT": moto.airflow_connection(),
            "AIRFLOW_CONN_BLOCKED_SOURCE": json.dumps(blocked_source),
            "AIRFLOW_CONN_POSTGRES_TARGET": pg18.airflow_connection("postgres"),
            "AIRFLOW__PG_S3__REPOSITORIES": json.dumps([SHOWN]),
            "PG_S3_REPOSITORY": REPOSITORY,
            "PG_S3_BACKUP_SCHEDULE": "@once",
        },
        dags={"timeout.py": TIMEOUT_DAG},
    )
    try:
        wait_until(airflow.is_up, "airflow standalone is up", seconds=300)
        yield airflow
    finally:
        airflow.stop()
        print(airflow.log_tail())  # shown when something failed
    assert airflow.processes() == []


@pytest.fixture(scope="module")
def big_database(pg18):
    """A database of one table, which is longer than a blocked road carries."""
    create_bulk_database(pg18, "big", megabytes=BYTES_BEFORE_THE_BLOCK // 1_000_000 + 20)
    yield "big"
    pg18.drop_database("big")


@pytest.fixture
def big(big_database, moto):
    """The same, with no backup of it anywhere before the test."""
    for key in stored_keys(moto, f"backups/{big_database}/"):
        moto.client().delete_object(Bucket=BUCKET, Key=key)
    return big_database


def stored_keys(moto, prefix):
    pages = moto.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def manifests(moto, database):
    return [key for key in stored_keys(moto, f"backups/{database}/") if key.endswith(".json")]


def runs(moto, database):
    return [key for key in stored_keys(moto, f"backups/{database}/") if key.endswith(".zst")]


def test_the_scheduler_runs_the_backup_by_itself(standalone, moto, pg18):
    def scheduled():
        return [run for run in standalone.runs("pg_s3_backup") if run["state"] in ("success", "failed")]

    run = wait_until(scheduled, "a scheduled backup has ended")[0]
    of_the_task = ("pg_s3_backup", run["dag_run_id"], "backup")
    assert (run["state"], run["run_type"]) == ("success", "scheduled"), standalone.task_log(*of_the_task)
    log = standalone.log_with("committed s3://", *of_the_task)
    assert pg18.password not in log
    assert "::group::Dump" in log
    links = standalone.call("GET", "/dags/{}/dagRuns/{}/taskInstances/{}/links".format(*of_the_task))
    page = {"Backup on its page"} if VERSION >= (3, 1) else set()
    assert set(links["extra_links"]) == {"Backup on Amazon S3", *page}
    assert manifests(moto, "nightly")


@pytest.fixture
def browser():
    with open_browser() as browser:
        yield browser


@since(3, 1, "place for the Backups page")
def test_the_backups_page_shows_what_is_stored_and_restores_it_by_a_click(standalone, moto, pg18, browser):
    # In Airflow's own database, where most connections are.
    account = json.loads(moto.airflow_connection())
    extra = json.dumps(account.pop("extra"))
    standalone.call("POST", "/connections", account | {"connection_id": SHOWN["aws_conn_id"], "extra": extra})
    repository = Repository(moto.client(), REPOSITORY)
    backup = wait_until(lambda: repository.backups("nightly"), "the scheduled backup is there")[0]
    manifest = read_manifest(moto.client(), backup.uri).manifest
    dump = {"pg_dump_version": "18.1", "options": ["--table=t"], "jobs": 2, "left_out_by": ["--table"]}
    of_a_part = {"Bucket": BUCKET, "Key": f"backups/part/{ID}.json"}
    moto.client().put_object(**of_a_part, Body=manifest_of("part", dump=dump).to_json())

    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(error))
    page.goto(standalone.url)
    page.get_by_role("link", name="Backups", exact=True).click()
    backups = page.frame_locator("iframe")
    row = backups.get_by_role("row").filter(has=backups.get_by_role("link", name="nightly", exact=True))
    row.wait_for()
    numbers = row.get_by_role("cell").all_inner_texts()
    sizes = [manifest.stored_bytes, manifest.new_stored_bytes, manifest.raw_bytes]
    assert numbers[4:8] == [*map(human, sizes), str(manifest.tables)]
    assert "On time" in numbers[1]
    part = backups.get_by_role("row").filter(has=backups.get_by_role("link", name="part", exact=True))
    assert "partial" in part.inner_text()
    assert "partial" not in row.inner_text()
    moto.client().delete_object(**of_a_part)

    # By the keyboard, which shows what has the focus.
    backups.get_by_role("link", name="nightly", exact=True).press("Enter")
    backups.locator(".plot").first.wait_for()
    assert backups.locator("main:focus-visible").evaluate("e => getComputedStyle(e).outlineStyle") == "none"
    assert f"newest: {human(sizes[0])}" in backups.locator(".plot").filter(has_text="Stored").inner_text()
    wide = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    assert backups.locator("body").evaluate(STICKING_OUT) == []
    page.set_viewport_size(wide)
    backups.locator("tbody").get_by_role("link").first.click()
    table = backups.get_by_role("row").filter(has_text="public.t")
    table.wait_for()
    assert table.get_by_role("cell").all_inner_texts()[:2] == ["public.t", "20,000"]
    assert backup.backup_id in backups.locator("pre").nth(0).inner_text()

    def restore(*choices):
        backups.get_by_role("button", name="Restore…").click()
        for choice in choices:
            backups.get_by_label(choice).check()
        backups.locator("[name=target_database]").fill("restored by a click")
        target = backups.get_by_label("Into the server of this connection")
        assert target.input_value() == ""  # whoever restores names it
        for nothing in ("", " "):
            target.fill(nothing)
            backups.get_by_role("button", name="Continue").click()
            assert not target.evaluate("input => input.checkValidity()")
            assert backups.locator("[name=confirmed]").count() == 0
        target.fill("postgres_target")
        backups.get_by_role("button", name="Continue").click()
        backups.get_by_label("Yes, restore into the database restored by a click of postgres_target.").check()
        backups.get_by_role("button", name="Restore", exact=True).click()

    backups.get_by_role("button", name="Restore…").click()
    backups.get_by_label("Drop what the backup brings").check()
    backups.get_by_label("Into the server of this connection").fill("postgres_target")
    backups.locator("[name=target_database]").fill("staging")
    backups.locator("[name=tables]").fill("public.t, public.u")
    backups.get_by_role("button", name="Continue").click()
    both = "Yes, drop public.t, public.u from the database staging of postgres_target and restore them."
    backups.get_by_label(both).wait_for()
    backups.get_by_role("button", name="Cancel").click()

    restore("Own everything yourself")
    backups.get_by_text("Restored into restored by a click: 1 table, 20,000 rows.").wait_for(timeout=120_000)
    rows = "SELECT count(*), min(n), max(md5) FROM t"
    assert pg18.psql(rows, "restored by a click") == pg18.psql(rows, "nightly")
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 't'"
    assert pg18.psql(owner, "restored by a click").strip() == pg18.user

    backups.get_by_role("button", name="Close").click()
    restore()
    refusal = backups.get_by_text("'restored by a click' is not empty, it holds table public.t")
    refusal.wait_for(timeout=120_000)
    for title, value in (("Drop what the backup brings", "clean"), ("Replace the database", "replace")):
        assert f'“{title}” (if_exists="{value}")' in refusal.inner_text()
    assert backups.get_by_role("link", name="Open the run in Airflow").is_visible()
    backups.get_by_role("link", name="Log of restore").click()
    page.wait_for_url("**/dags/pg_s3_on_demand/runs/**/tasks/restore")
    assert problems == []


@since(3, 1, "place for the Backups page")
def test_the_backups_page_says_that_a_dag_is_missing_or_paused(standalone, moto, browser):
    backup = wait_until(lambda: Repository(moto.client(), REPOSITORY).backups("nightly"), "a backup is there")[0]
    page = browser.new_page()
    # Airflow itself answers that there is no such DAG.
    page.route(
        "**/dags/pg_s3_verify_new_backup/details",
        lambda route: route.continue_(url=route.request.url.replace("pg_s3_verify_new_backup", "no_such_dag")),
    )
    page.goto(standalone.url)
    # Logged in, as Airflow 3.1's login leads back to its home alone.
    page.get_by_role("link", name="Backups", exact=True).wait_for()
    page.goto(f"{standalone.url}/pg-s3/#shown/nightly/{backup.backup_id}")
    page.get_by_role("button", name="Verify…").click()
    page.get_by_text("copy airflow_pg_s3/example_dags/pg_s3_restore_verification.py of the").wait_for()
    page.get_by_role("button", name="Close").click()

    standalone.call("PATCH", "/dags/pg_s3_on_demand", {"is_paused": True})
    try:
        page.get_by_role("button", name="Restore…").click()
        notice = page.get_by_text("The DAG pg_s3_on_demand is paused: unpause it, or the run will wait.")
        notice.get_by_role("link", name="pg_s3_on_demand").click()
        page.wait_for_url("**/dags/pg_s3_on_demand")
    finally:
        standalone.call("PATCH", "/dags/pg_s3_on_demand", {"is_paused": False})


def test_the_api_refuses_a_wrong_param_and_says_why(standalone):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        standalone.trigger("pg_s3_on_demand", mode="backup", jobs=0)
    assert refusal.value.code == 400
    assert "0 is less than the minimum of 1" in refusal.value.read().decode()


def test_the_log_of_a_task_that_cannot_work_says_why_once_and_without_stack_frames(standalone):
    run_id = standalone.trigger("pg_s3_on_demand", mode="backup", database="no such database")
    assert standalone.end_of("pg_s3_on_demand", run_id) == "failed"
    end = "Post Execute" if VERSION >= (3, 2) else "no such database"
    log = standalone.log_with(end, "pg_s3_on_demand", run_id, "backup")
    errors = [record for record in json.loads(log)["content"] if record.get("level") == "error"]
    assert ["no such database" in record["event"] for record in errors] == [True]
    assert '"error_detail"' not in log


def mark_failed(standalone, run_id):
    """What a click on "Mark as failed" does: the supervisor sends SIGTERM, then SIGKILL."""
    path = f"/dags/pg_s3_on_demand/dagRuns/{run_id}/taskInstances/backup"
    standalone.call("PATCH", path, {"new_state": "failed"})


def kill_task_process(standalone, run_id):
    """What the kernel does when memory runs out."""
    dumps = standalone.processes("pg_dump")
    parents = {int(re.search(r"PPid:\s(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) for pid in dumps}
    (task,) = parents - set(dumps)  # pg_dump's workers have pg_dump as their parent
    os.kill(task, signal.SIGKILL)


@pytest.mark.parametrize("end", sample([mark_failed, kill_task_process], 1, "ended midway"))
def test_a_backup_ended_midway_leaves_no_process_and_no_spool_and_the_next_run_nothing_of_it(
    standalone, moto, big, road, end
):
    road.open.clear()
    run_id = standalone.trigger("pg_s3_on_demand", mode="backup", database=big, source_conn_id="blocked_source")
    wait_until(
        lambda: standalone.processes("pg_dump") and runs(moto, big) and standalone.spool_folders(),
        "pg_dump runs and something is stored",
    )

    end(standalone, run_id)
    wait_until(lambda: not standalone.processes("pg_dump"), "pg_dump has ended")
    wait_until(lambda: not standalone.spool_folders(), "the spool folder is gone")
    assert standalone.end_of("pg_s3_on_demand", run_id) == "failed"
    assert manifests(moto, big) == []

    road.open.set()
    next_id = standalone.trigger("pg_s3_on_demand", mode="backup", database=big)
    assert standalone.end_of("pg_s3_on_demand", next_id) == "success"
    (manifest,) = manifests(moto, big)
    of_this_backup = (manifest, manifest.removesuffix(".json") + "/")
    assert [key for key in stored_keys(moto, f"backups/{big}/") if not key.startswith(of_this_backup)] == []
    assert standalone.spool_folders() == []


def test_a_backup_that_airflow_ends_at_its_timeout_undoes_all_of_itself(standalone, moto, big, road):
    road.open.clear()
    run_id = standalone.trigger("ends_at_its_timeout")
    wait_until(lambda: standalone.processes("pg_dump") and runs(moto, big), "something is stored")
    assert standalone.end_of("ends_at_its_timeout", run_id) == "failed"
    standalone.log_with("AirflowTaskTimeout", "ends_at_its_timeout", run_id, "backup")
    assert standalone.processes("pg_dump") == []
    assert standalone.spool_folders() == []
    assert stored_keys(moto, f"backups/{big}/") == []
    road.open.set()
