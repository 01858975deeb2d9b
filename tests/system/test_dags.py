"""The shipped DAGs, parsed as Airflow does and run with real servers."""

import json
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

import pyrage
import pytest
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_pg_s3 import form_fields
from airflow_pg_s3.core.repository.repository import read_manifest
from airflow_pg_s3.hooks import pg_s3
from testkit.database_equality import compare_databases
from tests.support.airflow_versions import VERSION, DagBag, DagSerialization, ParamValidationError

DAGS = Path(__file__).parents[2] / "dags"


def parse(dag_id):
    return DagBag(DAGS).dags[dag_id]


def stored_keys(shop):
    pages = shop.s3.client().get_paginator("list_objects_v2").paginate(Bucket=shop.bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def differences(shop, database=None, target=None):
    return compare_databases(shop.cluster.dsn(database or shop.database), shop.cluster.dsn(target or shop.target))


# -- what Airflow reads ------------------------------------------------------------------------------------------


def test_the_folder_holds_exactly_these_dags_and_each_can_be_imported():
    bag = DagBag(DAGS)
    assert bag.import_errors == {}
    assert set(bag.dags) == {
        "pg_s3_backup", "pg_s3_doctor", "pg_s3_fleet", "pg_s3_freshness", "pg_s3_list", "pg_s3_on_demand",
        "pg_s3_prune", "pg_s3_refresh_staging", "pg_s3_restore", "pg_s3_restore_verification",
        "pg_s3_verify_new_backup",
    }  # fmt: skip


def test_each_field_of_a_form_says_in_words_what_it_is():
    for dag in DagBag(DAGS).dags.values():
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema.get("title", name) != name, (dag.dag_id, name)
            said = param.description or param.schema["title"]
            assert " " in said, (dag.dag_id, name)


def test_the_form_says_which_variable_fills_in_each_connection():
    params = parse("pg_s3_on_demand").params
    for name in ("source", "target", "aws", "age_identity"):
        assert f"PG_S3_{name.upper()}_CONN_ID" in params.get_param(f"{name}_conn_id").description


@pytest.mark.parametrize("dag_id", ["pg_s3_on_demand", "pg_s3_restore"])
def test_the_form_says_what_a_replacement_does_to_those_who_are_connected(dag_id):
    said = parse(dag_id).params.get_param("if_exists").description
    assert "cuts all connections" in said
    assert "__before_" in said


def test_the_backup_runs_every_night_alone_and_retries_ever_later():
    dag = parse("pg_s3_backup")
    (task,) = dag.tasks
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == ("0 3 * * *", False, 1)
    assert task.retries == 3
    assert task.retry_delay < task.max_retry_delay
    assert task.execution_timeout == timedelta(hours=12)
    scheduled = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("backup")
    # What the scheduler multiplies the delay with; before 3.2, True stood for 2.
    assert scheduled.retry_exponential_backoff == (2.0 if VERSION >= (3, 2) else True)


@pytest.mark.parametrize(
    "dag_id", ["pg_s3_fleet", "pg_s3_on_demand", "pg_s3_prune", "pg_s3_refresh_staging", "pg_s3_restore"]
)
def test_what_changes_something_else_than_a_backup_does_not_run_by_itself(dag_id):
    assert parse(dag_id).schedule is None


def test_schedules_repository_and_connections_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PG_S3_BACKUP_SCHEDULE", "17 1 * * *")
    monkeypatch.setenv("PG_S3_RESTORE_SCHEDULE", "0 6 * * 1")
    monkeypatch.setenv("PG_S3_REPOSITORY", "s3://elsewhere/x")
    monkeypatch.setenv("PG_S3_SOURCE_CONN_ID", "prod")
    monkeypatch.setenv("PG_S3_TARGET_CONN_ID", "spare")
    monkeypatch.setenv("PG_S3_TIMEOUT_HOURS", "0.5")
    backup, restore = parse("pg_s3_backup"), parse("pg_s3_restore")
    assert backup.schedule == "17 1 * * *"
    assert restore.schedule == "0 6 * * 1"
    assert backup.params["repository"] == restore.params["repository"] == "s3://elsewhere/x"
    assert backup.params["postgres_conn_id"] == "prod"
    assert restore.params["target_conn_id"] == parse("pg_s3_on_demand").params["target_conn_id"] == "spare"
    assert [asset.uri for asset in backup.get_task("backup").outlets] == ["s3://elsewhere/x"]
    assert backup.get_task("backup").execution_timeout == timedelta(minutes=30)


@pytest.mark.parametrize(
    ("others", "environment", "expected"),
    [
        ([], {}, ("s3://b/only", "account")),
        ([], {"PG_S3_AWS_CONN_ID": "other"}, ("s3://b/only", "other")),
        ([], {"PG_S3_REPOSITORY": "s3://b/x"}, ("s3://b/x", "aws_default")),
        ([{"name": "second", "uri": "s3://b/second"}], {}, (form_fields.REPOSITORY, "aws_default")),
    ],
    ids=["only one", "other account", "other repository", "two"],
)
def test_the_only_named_repository_is_the_default_with_its_connection(monkeypatch, others, environment, expected):
    only = {"name": "only", "uri": "s3://b/only", "aws_conn_id": "account"}
    monkeypatch.setenv("AIRFLOW__PG_S3__REPOSITORIES", json.dumps([only, *others]))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    params = parse("pg_s3_backup").params
    assert (params["repository"], params["aws_conn_id"]) == expected


def test_no_server_to_restore_into_is_assumed(shop, run_dag, monkeypatch, capfd):
    monkeypatch.delenv("PG_S3_TARGET_CONN_ID")
    assert parse("pg_s3_restore").params["target_conn_id"] == ""
    restore = run_dag("pg_s3_on_demand", mode="restore", backup=f"s3://{shop.bucket}/backups/shop/x.json")
    assert restore.tasks["restore"] == "failed"
    assert "no server is named: give the id of its Airflow connection" in " ".join(capfd.readouterr().out.split())


def test_an_empty_schedule_means_manual_runs_only(monkeypatch):
    monkeypatch.setenv("PG_S3_BACKUP_SCHEDULE", "")
    assert parse("pg_s3_backup").schedule is None


@pytest.mark.parametrize(
    "dag_id", ["pg_s3_backup", "pg_s3_on_demand", "pg_s3_prune", "pg_s3_refresh_staging", "pg_s3_restore"]
)
def test_airflow_can_copy_the_tasks_as_it_does_for_a_part_of_a_dag(dag_id):
    dag = parse(dag_id)
    assert set(dag.partial_subset(dag.task_ids).task_ids) == set(dag.task_ids)


# -- what they do ------------------------------------------------------------------------------------------------


def test_backup_then_restore_of_the_latest_gives_an_equal_database(shop, run_dag):
    backup = run_dag("pg_s3_backup")
    assert (backup.state, backup.tasks) == ("success", {"backup": "success"})
    restore = run_dag("pg_s3_restore")
    assert (restore.state, restore.tasks) == ("success", {"latest": "success", "restore": "success"})
    assert differences(shop) == []

    made, listed, restored = backup.results["backup"], restore.results["latest"], restore.results["restore"]
    assert [entry["uri"] for entry in listed] == [made["uri"]]
    assert (restored["backup_id"], restored["database"]) == (made["backup_id"], shop.target)
    assert (restored["tables"], restored["rows"]) == (made["tables"], made["rows"])


def test_the_asset_event_carries_the_facts_of_the_backup(shop, run_dag):
    made = run_dag("pg_s3_backup").results["backup"]
    with create_session() as session:
        event = session.scalars(select(AssetEvent).order_by(AssetEvent.id.desc())).first()
        assert (event.source_dag_id, event.source_task_id) == ("pg_s3_backup", "backup")
        assert event.asset.uri == f"s3://{shop.bucket}/backups"
        assert event.extra == made
    assert set(made) >= {
        "uri", "key", "backup_id", "database", "created_at", "raw_bytes", "stored_bytes", "tables", "rows",
        "left_out_by", "duration_seconds",
    }  # fmt: skip
    assert made["database"] == shop.database
    assert made["key"] in stored_keys(shop)
    assert made["uri"] == f"s3://{shop.bucket}/{made['key']}"


def test_a_failed_backup_fails_the_run_and_leaves_neither_objects_nor_an_event(shop, run_dag):
    with create_session() as session:
        events_before = session.query(AssetEvent).count()
    outcome = run_dag("pg_s3_backup", database="no such database")
    assert (outcome.state, outcome.tasks) == ("failed", {"backup": "failed"})
    assert stored_keys(shop) == []
    with create_session() as session:
        assert session.query(AssetEvent).count() == events_before


def test_the_fleet_backs_up_each_database_of_each_server_that_answers(shop, run_dag, monkeypatch, caplog, capfd):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER.SERVER", shop.cluster.airflow_connection(shop.target))
    gone = {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "login": "x"}
    monkeypatch.setenv("AIRFLOW_CONN_GONE", json.dumps(gone))
    monkeypatch.setenv("PG_S3_FLEET_SERVERS", "postgres_default gone nowhere other.server")
    # Other tests' databases are on the cluster as well.
    monkeypatch.setenv("PG_S3_FLEET_EXCLUDE", f"(?!{shop.database}).*")
    outcome = run_dag("pg_s3_fleet")
    assert outcome.state == "failed"
    assert outcome.tasks["gone.databases"] == "failed"
    assert outcome.tasks["gone.backup"] == outcome.tasks["nowhere.backup"] == "upstream_failed"
    errors = sorted(error.lstrip(" ]") for error in logged_errors(capfd.readouterr().out, caplog))
    assert [error[:24] for error in errors] == ["cannot connect to x@127.", "the Airflow connection '"]
    assert outcome.tasks["postgres_default.backup"] == outcome.tasks["other_server.backup"] == "success"
    for server in ("postgres_default", "other.server"):
        made = {key.split("/")[2] for key in stored_keys(shop) if key.startswith(f"backups/{server}/")}
        assert {unquote(name) for name in made} == {shop.database, shop.target}


def test_the_restore_takes_the_latest_of_its_own_database_only(shop, run_dag):
    other = f"{shop.database}_staging"
    shop.cluster.create_database(other)
    try:
        ours = run_dag("pg_s3_backup").results["backup"]
        run_dag("pg_s3_backup", database=other)
        assert run_dag("pg_s3_restore").results["restore"]["backup_id"] == ours["backup_id"]
    finally:
        shop.cluster.drop_database(other)


def test_a_scheduled_restore_refuses_a_target_that_holds_data_unless_told_to_clean_it(shop, run_dag):
    run_dag("pg_s3_backup")
    shop.cluster.psql("CREATE TABLE precious AS SELECT 42 AS answer", shop.target)
    refused = run_dag("pg_s3_restore")
    assert refused.tasks == {"latest": "success", "restore": "failed"}
    assert shop.cluster.psql("SELECT answer FROM precious", shop.target).strip() == "42"
    assert shop.cluster.psql("SELECT to_regclass('shop.orders') IS NULL", shop.target).strip() == "t"

    assert run_dag("pg_s3_restore", if_exists="clean").state == "success"
    assert run_dag("pg_s3_restore", if_exists="clean").state == "success"  # over what it restored itself
    shop.cluster.psql("DROP TABLE IF EXISTS precious", shop.target)
    assert differences(shop) == []


@pytest.mark.parametrize("dag_id", ["pg_s3_restore", "pg_s3_refresh_staging", "pg_s3_restore_verification"])
def test_no_dag_takes_the_backup_of_any_database_where_none_is_named(shop, run_dag, monkeypatch, dag_id):
    run_dag("pg_s3_backup")
    nameless = json.loads(shop.cluster.airflow_connection(shop.target)) | {"schema": ""}
    monkeypatch.setenv("AIRFLOW_CONN_NAMELESS", json.dumps(nameless))
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_STAGING", shop.cluster.airflow_connection(shop.target))
    shop.cluster.psql("CREATE TABLE precious AS SELECT 42 AS answer", shop.target)
    for conn_id in ("nameless", "no_such_connection"):
        assert run_dag(dag_id, postgres_conn_id=conn_id).tasks["latest"] == "failed"
    assert shop.cluster.psql("SELECT answer FROM precious", shop.target).strip() == "42"


def logged_errors(said, caplog):
    """What tasks have logged as errors, with stack frames if they have any.

    A task's own log goes to standard output, as that of modules does in one of the two ways to log. Airflow 3.0's
    client reports a missing connection as well.
    """
    errors = [part for part in said.split("[error ")[1:] if "[airflow.sdk.api.client]" not in part]
    return errors or [record.message for record in caplog.records if record.levelname == "ERROR"]


def test_what_is_wrong_is_in_the_log_once_and_without_stack_frames(shop, run_dag, monkeypatch, caplog, capfd):
    missing = "the Airflow connection 'nowhere' does not exist: create it, or correct the id"
    without_tls = json.loads(shop.cluster.airflow_connection(shop.database, sslmode="require"))
    monkeypatch.setenv("AIRFLOW_CONN_NO_TLS", json.dumps(without_tls))
    for dag_id, conn_id, sentence in (
        ("pg_s3_backup", "nowhere", missing),
        ("pg_s3_restore", "nowhere", missing),
        (
            "pg_s3_backup",
            "no_tls",
            "server does not support SSL, but SSL was required; enable it on the server, or ",
        ),
    ):
        caplog.clear()
        capfd.readouterr()
        assert run_dag(dag_id, postgres_conn_id=conn_id).state == "failed"
        said = capfd.readouterr().out
        errors = logged_errors(said, caplog)
        assert len(errors) == 1, errors
        assert sentence in " ".join(errors[0].split())
        assert max(len(line) for line in errors[0].splitlines()) < 200
        assert "Traceback" not in said + caplog.text


def test_a_scheduled_restore_replaces_a_database_of_another_name_only_if_it_is_named(shop, run_dag):
    run_dag("pg_s3_backup")
    shop.cluster.psql("CREATE TABLE precious AS SELECT 42 AS answer", shop.target)
    refused = run_dag("pg_s3_restore", if_exists="replace")
    assert refused.tasks == {"latest": "success", "restore": "failed"}
    assert shop.cluster.psql("SELECT answer FROM precious", shop.target).strip() == "42"
    done = run_dag("pg_s3_restore", if_exists="replace", target_database=shop.target)
    assert done.state == "success"
    shop.cluster.drop_database(done.results["restore"]["previous_database"])
    assert differences(shop) == []


def test_staging_is_replaced_by_the_latest_verified_backup_with_the_masking_done(shop, run_dag, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_STAGING", shop.cluster.airflow_connection(shop.target))
    shop.cluster.psql("CREATE TABLE old_staging AS SELECT 1 AS i", shop.target)
    run_dag("pg_s3_backup")
    assert run_dag("pg_s3_refresh_staging").tasks["latest"] == "failed"
    proved = run_dag("pg_s3_restore_verification").results["verify"]
    run_dag("pg_s3_backup")  # newer, and not verified
    names = shop.cluster.psql("SELECT count(*) FROM pg_database")
    done = run_dag(
        "pg_s3_refresh_staging",
        pre_restore_sql="CREATE TABLE before_it (i int)",
        post_restore_sql="CREATE TABLE masked AS SELECT 1 AS i;\nDROP TABLE masked, before_it",
    )
    assert done.state == "success"
    assert [row["uri"] for row in done.results["latest"]] == [proved["uri"]]
    assert done.results["refresh"]["previous_database"] is None
    assert differences(shop) == []
    assert shop.cluster.psql("SELECT count(*) FROM pg_database") == names

    broken = run_dag(
        "pg_s3_refresh_staging", post_restore_sql="DROP TABLE shop.orders CASCADE; SELECT no_such_mask()"
    )
    assert broken.tasks == {"latest": "success", "refresh": "failed"}
    assert differences(shop) == []


def test_prune_says_what_it_would_delete_and_deletes_it_only_if_told_to(shop, run_dag):
    old, new = (run_dag("pg_s3_backup").results["backup"] for _ in range(2))
    old, new = sorted((old, new), key=lambda made: made["backup_id"])
    before = stored_keys(shop)
    only_the_last = {"keep_last": 1, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}
    dry = run_dag("pg_s3_prune", **only_the_last)
    assert (dry.state, stored_keys(shop)) == ("success", before)
    wet = run_dag("pg_s3_prune", **only_the_last, dry_run=False)
    assert wet.state == "success"
    assert [entry["backup_id"] for entry in wet.results["prune"]["deleted"]] == [old["backup_id"]]
    assert dry.results["prune"] == wet.results["prune"] | {"dry_run": True}
    left = stored_keys(shop)
    assert [key for key in left if new["backup_id"] in key] == [key for key in before if new["backup_id"] in key]
    # The newer backup refers to the older one's runs.
    names = {key.rpartition("/")[2] for key in left if old["backup_id"] in key}
    assert names == {"000001.zst", "000002.zst", "pruned", "settled"}


def test_the_list_has_the_backups_of_all_servers_in_one_table(shop, run_dag, monkeypatch, capfd):
    monkeypatch.setenv("PG_S3_FLEET_SERVERS", "postgres_default nothing_yet")
    made = run_dag("pg_s3_backup").results["backup"]
    of_the_fleet = run_dag("pg_s3_backup", repository=f"s3://{shop.bucket}/backups/postgres_default")
    capfd.readouterr()
    listed = run_dag("pg_s3_list").results["list"]
    assert [row["uri"] for row in listed] == [made["uri"], of_the_fleet.results["backup"]["uri"]]


def test_the_doctor_says_what_would_fail_and_names_the_connection_to_change(shop, run_dag, monkeypatch, caplog):
    well = run_dag("pg_s3_doctor")
    assert (well.state, well.results["examine"]["ok"]) == ("success", True)
    wrong = json.loads(shop.cluster.airflow_connection(shop.database)) | {"password": "not the password"}
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps(wrong))
    said = []
    monkeypatch.setattr(pg_s3, "lines", lambda findings: said.extend(findings) or [])
    assert run_dag("pg_s3_doctor", postgres_conn_id="wrong", database=shop.database).state == "failed"
    (refused,) = [finding.found for finding in said if finding.status == "failure"]
    assert "correct the Airflow connection wrong's login and password" in refused


def test_on_demand_backs_up_and_skips_the_restore(shop, run_dag):
    outcome = run_dag("pg_s3_on_demand", mode="backup", jobs=1)
    assert outcome.state == "success"
    assert outcome.tasks == {"choose": "success", "backup": "success", "latest": "skipped", "restore": "skipped"}
    assert outcome.results["backup"]["key"] in stored_keys(shop)


def test_on_demand_restores_the_latest_backup_when_no_uri_is_given(shop, run_dag):
    run_dag("pg_s3_on_demand", mode="backup")
    shop.cluster.psql("DELETE FROM shop.documents", shop.database)
    newer = run_dag("pg_s3_on_demand", mode="backup").results["backup"]
    outcome = run_dag("pg_s3_on_demand", mode="restore")
    assert outcome.tasks == {"choose": "success", "backup": "skipped", "latest": "success", "restore": "success"}
    assert outcome.results["restore"]["backup_id"] == newer["backup_id"]
    assert differences(shop) == []


def test_on_demand_restores_the_named_backup_tables_and_options_only(shop, run_dag):
    older = run_dag("pg_s3_on_demand", mode="backup").results["backup"]
    shop.cluster.psql("DELETE FROM shop.order_items; DELETE FROM shop.products", shop.database)
    run_dag("pg_s3_on_demand", mode="backup")
    outcome = run_dag(
        "pg_s3_on_demand",
        mode="restore",
        backup=older["uri"],
        tables=["shop.products"],
        jobs=3,
        pg_restore_options=["--no-comments"],
    )
    assert outcome.tasks == {"choose": "success", "backup": "skipped", "latest": "skipped", "restore": "success"}
    held = shop.cluster.psql(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'shop'::regnamespace", shop.target
    )
    assert held.split() == ["products"]
    assert shop.cluster.psql("SELECT count(*) FROM shop.products", shop.target).strip() == "2000"


def test_on_demand_stores_as_the_form_says_and_restores_with_the_identity_of_a_connection(
    shop, run_dag, monkeypatch
):
    identity = pyrage.x25519.Identity.generate()
    monkeypatch.setenv("AIRFLOW_CONN_AGE", json.dumps({"conn_type": "generic", "password": str(identity)}))
    first = run_dag("pg_s3_on_demand", mode="backup").results["backup"]
    made = run_dag(
        "pg_s3_on_demand",
        mode="backup",
        age_recipients=[str(identity.to_public())],
        labels={"release": "42"},
        include_globals=True,
        full=True,
    ).results["backup"]
    manifest = read_manifest(shop.s3.client(), made["uri"])[0]
    assert manifest.labels == {"release": "42"}
    assert manifest.encryption is not None
    assert manifest.dump.has_globals is True
    assert made["new_stored_bytes"] == made["stored_bytes"]

    whole = {"mode": "restore", "no_owner": True, "age_identity_conn_id": "age"}
    assert run_dag("pg_s3_on_demand", **whole).results["restore"]["backup_id"] == made["backup_id"]
    assert differences(shop) == []
    shop.cluster.psql("TRUNCATE shop.documents CASCADE", shop.target)
    rows = {"data_only": True, "tables": ["shop.documents"], "before": made["created_at"]}
    done = run_dag("pg_s3_on_demand", mode="restore", **rows)
    assert done.results["restore"]["backup_id"] == first["backup_id"]
    assert differences(shop) == []
    shop.cluster.psql("DROP SCHEMA shop CASCADE", shop.target)
    assert run_dag("pg_s3_on_demand", **whole, schemas=["shop"]).results["restore"]["tables"] > 1
    assert run_dag("pg_s3_on_demand", mode="restore", verified_only=True).tasks["latest"] == "failed"


def test_on_demand_takes_a_database_whose_name_looks_like_a_number(shop, run_dag):
    """Native rendering would make 1000 of it, and restore into another database."""
    shop.cluster.create_database("1_000")
    try:
        shop.cluster.psql("CREATE TABLE t AS SELECT 7 AS x", "1_000")
        assert run_dag("pg_s3_on_demand", mode="backup", database="1_000").results["backup"]["database"] == "1_000"
        restored = run_dag("pg_s3_on_demand", mode="restore", database="1_000").results["restore"]
        assert restored["database"] == shop.target
        assert shop.cluster.psql("SELECT x FROM t", shop.target).strip() == "7"
    finally:
        shop.cluster.drop_database("1_000")


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"mode": "verify"}, "param mode: 'verify' is not one of ['backup', 'restore']"),
        ({"jobs": 0}, "param jobs: 0 is less than the minimum of 1"),
        ({"jobs": "two"}, "param jobs: 'two' is not of type 'integer'"),
        (
            {"if_exists": "replace all"},
            "param if_exists: 'replace all' is not one of ['fail', 'clean', 'replace']",
        ),
        ({"backup": "/tmp/backup.json"}, "param backup: '/tmp/backup.json' does not match '^(s3://"),
        ({"repository": "bucket/prefix"}, "param repository: 'bucket/prefix' does not match '^(s3://"),
        ({"tables": "shop.orders"}, "param tables: 'shop.orders' is not of type 'array', 'null'"),
        ({"tables": [""]}, "param tables: ''"),
        ({"pg_restore_options": ["no-owner"]}, "param pg_restore_options: 'no-owner' does not match '^-'"),
        ({"source_conn_id": ""}, "param source_conn_id: ''"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_trigger_form_refuses_wrong_values_and_says_why(shop, run_dag, conf, said):
    with pytest.raises(ParamValidationError) as refusal:
        run_dag("pg_s3_on_demand", **conf)
    assert f"Invalid input for {said}" in str(refusal.value)
    assert stored_keys(shop) == []
