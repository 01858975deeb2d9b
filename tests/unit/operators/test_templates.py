"""Templates: what can be rendered, what Airflow shows of it, and which files it reads."""

import inspect
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, BaseOperator

from airflow_pg_s3.hooks import pg_s3 as hook
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.prune import PgS3PruneOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from airflow_pg_s3.sensors.freshness import PgS3BackupFreshnessSensor
from tests.support.airflow_versions import DagSerialization

ALL = (
    PgS3BackupOperator,
    PgS3BackupFreshnessSensor,
    PgS3ListBackupsOperator,
    PgS3PruneOperator,
    PgS3RestoreOperator,
    PgS3VerifyOperator,
)
FIRST = "s3://bucket/prod"
SSE_C = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "{{ params.key }}"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What the hook is asked for, as keywords, by operators that do nothing besides."""
    calls: list[dict] = []

    class Asked(hook.PgS3Hook):
        def restore(self, *positional: object, **given: object) -> dict:
            calls.append({"positional": positional, "hook": self, **given})
            return {}

        verify = restore

    monkeypatch.setattr("airflow_pg_s3.hooks.pg_s3.PgS3Hook", Asked)
    return calls


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., BaseOperator]:
    """(operator class, params, **arguments) → reads files, renders and runs it, as Airflow does."""

    def run(kind: type[BaseOperator], params: dict | None = None, **arguments: object) -> BaseOperator:
        with DAG("d", schedule=None, template_searchpath=[str(tmp_path)]) as dag:
            task = kind(task_id="t", **arguments)
        dag.resolve_template_files()
        context = {"params": params or {}, "task": task}
        task.render_template_fields(context)
        task.execute(context)
        return task

    return run


@pytest.mark.parametrize("kind", ALL)
def test_every_argument_is_a_template_but_durations_and_deferrable(kind):
    names = {"is_dry_run" if name == "dry_run" else name for name in inspect.signature(kind.__init__).parameters}
    # `verified` is another name of one.
    rest = names - {"self", "kwargs", "verified"} - set(kind.template_fields)
    assert rest <= {"full_every", "orphan_age", "max_age", "deferrable"}
    assert set(kind.template_fields_renderers) <= set(kind.template_fields)


def test_rendered_text_is_converted_or_refused_in_one_sentence():
    given = {"postgres_conn_id": "pg", "level": "checksum", "aws_conn_id": None}
    for wrong, says in (
        ({"jobs": "many"}, "jobs must be a number, not 'many'"),
        ({"locate_differences": "maybe"}, "locate_differences must be True or False, not 'maybe'"),
        ({"checks": "select 1"}, "checks must be a list of strings, not 'select 1'"),
        ({"s3_extra_args": "[]"}, "s3_extra_args must be a mapping"),
        ({"verified_only": ""}, "verified_only must be True or False, not ''"),
    ):
        task = PgS3VerifyOperator(task_id="t", backup="s3://b/p/d/1.json", **given | wrong)
        with pytest.raises(AirflowFailException, match=says):
            task.execute({})


def test_sql_is_read_from_files_and_rendered(tmp_path, asked, run):
    (tmp_path / "mask.sql").write_text("update people set name = '{{ params.name }}'")
    (tmp_path / "check.sql").write_text("select true")
    run(PgS3RestoreOperator, {"name": "nobody"}, backup=f"{FIRST}/a/1.json", post_restore_sql="mask.sql")
    run(PgS3VerifyOperator, backup=f"{FIRST}/a/1.json", checks=["check.sql", "select 1 = 1"])
    assert asked[0]["post_restore_sql"] == "update people set name = 'nobody'"
    assert asked[1]["checks"] == ["select true", "select 1 = 1"]


def test_an_archive_may_end_in_sql_too(asked, run, caplog):
    task = run(PgS3RestoreOperator, {"day": "monday"}, backup="s3://bucket/{{ params.day }}/dump.sql")
    assert task.backup == asked[0]["positional"][0] == "s3://bucket/monday/dump.sql"
    assert "Failed to resolve" not in caplog.text


def test_the_key_of_sse_c_is_rendered_and_not_among_what_airflow_shows(asked, run):
    task = run(PgS3RestoreOperator, {"key": "k" * 32}, backup=f"{FIRST}/a/1.json", s3_extra_args=SSE_C)
    assert task.s3_extra_args == {"SSECustomerAlgorithm": "AES256"}
    assert asked[0]["hook"].s3_extra_args == {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}


def test_an_item_of_what_a_task_returns_is_an_argument(asked, monkeypatch):
    with DAG("d", schedule=None) as dag:
        listed = PgS3ListBackupsOperator(task_id="latest", repository=FIRST)
        restore = PgS3RestoreOperator(
            task_id="r", backup=listed.output[0]["uri"], post_restore_sql=f"select '{listed.output[0]['key']}'"
        )
    assert restore.upstream_task_ids == {"latest"}
    # What Airflow stores of the DAG is the same each time it is parsed.
    stored = json.dumps(DagSerialization.to_dict(dag))
    assert "xcom_pull" in stored
    assert " object at 0x" not in stored
    returned = [{"uri": f"{FIRST}/a/1.json", "key": "a/1.json"}]
    ti = SimpleNamespace(xcom_pull=lambda **_: returned, task_id="r")
    context = {"ti": ti, "task_instance": ti, "expanded_ti_count": None}
    monkeypatch.setattr("airflow.sdk.definitions.xcom_arg.PlainXComArg.resolve", lambda *_: returned)
    restore.render_template_fields(context)
    assert (restore.backup, restore.post_restore_sql) == (f"{FIRST}/a/1.json", "select 'a/1.json'")


@pytest.mark.parametrize("kind", [PgS3RestoreOperator, PgS3VerifyOperator])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "neither backup nor repository is given"),
        ({"backup": ""}, "neither backup nor repository is given"),
        ({"backup": f"{FIRST}/a/1.json", "repository": FIRST}, "backup and repository are both given"),
    ],
)
def test_exactly_one_of_backup_and_repository_is_taken(kind, arguments, says):
    with pytest.raises(AirflowFailException, match=f"^{says}: give the URI of one backup, or the repository"):
        kind(task_id="t", **arguments).execute({})


def test_what_is_none_of_a_kind_is_refused_before_s3_is_asked():
    before = datetime.now(UTC) - timedelta(days=1)
    for asked in (
        {"labels": {"release": "42"}},
        {"verified_only": "true"},
        {"database": "shop", "before": before},
    ):
        task = PgS3ListBackupsOperator(
            task_id="t", repository="s3://nowhere/x", pattern="*.dump", aws_conn_id=None, **asked
        )
        with pytest.raises(AirflowFailException, match=f"{next(iter(asked))} cannot be combined with pattern"):
            task.execute({})
