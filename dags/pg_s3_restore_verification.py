"""Prove that backups restore: restore into a scratch database, compare every row, record the outcome.

There are two DAGs. Unpause the one that you want, or both:

- `pg_s3_restore_verification` verifies the latest backup, on a schedule of its own;
- `pg_s3_verify_new_backup` verifies each new backup, triggered by its asset event.

Nothing here needs editing. If no server is named, the worker starts a throwaway PostgreSQL for the task, which
needs the server's programs (package `postgresql-<major>`) and twice the backup's raw size on disk.
Environment variables of the Airflow processes change the defaults; each run can override the params.
Without `PG_S3_REPOSITORY`, the only repository in `[pg_s3] repositories` is taken, with its connection.

| variable                     | default                 | meaning |
|------------------------------|-------------------------|----------------------------------------|
| `PG_S3_VERIFY_SCHEDULE`      | `0 6 * * *`             | cron expression or preset; empty: manual runs only |
| `PG_S3_VERIFY_CONN_ID`       |                         | server to restore into; empty: a throwaway one |
| `PG_S3_VERIFY_LEVEL`         | `restore`               | `checksum` only reads and decodes: no server or checks |
| `PG_S3_VERIFY_CHECKS`        | `[]`                    | JSON list of queries that must return true |
| `PG_S3_PRE_RESTORE_SQL`      |                         | commands run before the restore, for extensions |
| `PG_S3_AGE_IDENTITY_CONN_ID` |                         | holds the age identity of encrypted backups |
| `PG_S3_POOL`                 | `default_pool`          | Airflow pool that the verification takes a slot of |
| `PG_S3_SPOOL_DIR`            |                         | folder for throwaway servers; empty: a temporary one |
| `PG_S3_REPOSITORY`           | `s3://backups/postgres` | where backups are stored |
| `PG_S3_FLEET_SERVERS`        |                         | as in `pg_s3_fleet`, whose backups are verified too |
| `PG_S3_SOURCE_CONN_ID`       | `postgres_default`      | names the database |
| `PG_S3_DATABASE`             |                         | that database; empty: the connection's own |
| `PG_S3_AWS_CONN_ID`          | `aws_default`           | the S3 account |
| `PG_S3_EXTRA_ARGS`           |                         | arguments of S3 requests (SSE-C, …), a JSON object |
| `PG_S3_JOBS`                 | `2`                     | tables restored and compared in parallel |
| `PG_S3_TIMEOUT_HOURS`        | `12`                    | a try that takes longer is stopped |
"""

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import DAG, Asset, AssetAny, Param, task

from airflow_pg_s3 import form_fields
from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.verify import PgS3VerifyOperator

REPOSITORY = form_fields.default_repository()
# Its events have the facts about one verification: uri, outcome, tables, rows, seconds, URI of the record.
VERIFIED = Asset(f"{REPOSITORY}/verified", group="pg_s3")

SHARED: dict[str, Any] = {
    "doc_md": __doc__,
    "user_defined_macros": {"database_of": database_of},
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "catchup": False,
    "max_active_runs": 1,
    "tags": ["pg_s3", "verification"],
    # Strings are written as JSON, so that a name like 1000 stays a string.
    "render_template_as_native_obj": True,
    "default_args": {
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
    },
}

# The operator's arguments in both DAGs.
VERIFICATION: dict[str, Any] = {
    "task_id": "verify",
    # With level="checksum" nothing is restored, so there is no server, and nothing to query.
    "postgres_conn_id": "{{ ((params.verify_conn_id or '') if params.level == 'restore' else '') | tojson }}",
    "aws_conn_id": "{{ params.aws_conn_id | tojson }}",
    "level": "{{ params.level }}",
    "checks": "{{ params.checks if params.checks and params.level == 'restore' else [] }}",
    "pre_restore_sql": "{{ (params.pre_restore_sql or '' if params.level == 'restore' else '') | tojson }}",
    "age_identity_conn_id": "{{ (params.age_identity_conn_id or '') | tojson }}",
    "spool_dir": os.environ.get("PG_S3_SPOOL_DIR") or None,
    "jobs": "{{ params.jobs }}",
    "s3_extra_args": form_fields.s3_extra_args(),
    "pool": form_fields.pool(),
    "execution_timeout": form_fields.time_limit(),
    "outlets": [VERIFIED],
}


def params() -> dict[str, Param]:
    """Return the params of both DAGs."""
    return {
        "aws_conn_id": form_fields.aws_conn_id(),
        "verify_conn_id": Param(
            os.environ.get("PG_S3_VERIFY_CONN_ID", ""),
            type=["string", "null"],
            title="Connection of a server to restore into",
            description="It gets a scratch database; empty: a throwaway PostgreSQL on the worker",
        ),
        "level": Param(
            os.environ.get("PG_S3_VERIFY_LEVEL", "restore"),
            type="string",
            enum=["restore", "checksum"],
            values_display={"restore": "restore and compare", "checksum": "read and check what is stored"},
            title="What to do",
            description="Only a restore proves that a backup restores",
        ),
        "checks": Param(
            json.loads(os.environ.get("PG_S3_VERIFY_CHECKS") or "[]"),
            type=["array", "null"],
            items={"type": "string", "minLength": 1},
            title="Checks",
            description="Queries for the restored database, one per line, each of which must return true",
        ),
        "pre_restore_sql": Param(
            os.environ.get("PG_S3_PRE_RESTORE_SQL", ""),
            type=["string", "null"],
            format="multiline",
            title="SQL before the restore",
            description="Commands that run in the scratch database before the restore, for extensions",
        ),
        "age_identity_conn_id": form_fields.identity_conn_id(),
        "jobs": form_fields.jobs(),
    }


with DAG(
    dag_id="pg_s3_restore_verification",
    description="Prove that the latest PostgreSQL backup restores",
    schedule=os.environ.get("PG_S3_VERIFY_SCHEDULE", "0 6 * * *") or None,
    params={
        "repository": form_fields.repository(),
        "postgres_conn_id": form_fields.named_by_conn_id(),
        "database": form_fields.database("whose latest backup is verified"),
        **params(),
    },
    **SHARED,
):
    latest = PgS3ListBackupsOperator(
        task_id="latest",
        repository="{{ params.repository | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ (params.database or database_of(params.postgres_conn_id)) | tojson }}",
        limit=1,
        s3_extra_args=form_fields.s3_extra_args(),
    )
    verify = PgS3VerifyOperator(
        backup="{{ ti.xcom_pull(task_ids='latest')[0]['uri'] | tojson }}",
        **VERIFICATION,
    )
    latest >> verify


with DAG(
    dag_id="pg_s3_verify_new_backup",
    description="Prove that each new PostgreSQL backup restores",
    schedule=AssetAny(*(Asset(repository, group="pg_s3") for repository in form_fields.all_repositories())),
    params={
        "backup": Param(
            "",
            type=["string", "null"],
            pattern="^(s3://[^/]+/.+)?$",
            title="Backup",
            description="For a manual run: URI of the backup's manifest",
        ),
        **params(),
    },
    **SHARED,
):

    @task
    def new_backups(
        params: dict[str, Any] | None = None,  # Airflow fills in both
        triggering_asset_events: Any = None,
    ) -> list[str]:
        """Return the URIs of the backups whose events have triggered this run; several if it had to wait."""
        events = [event for group in (triggering_asset_events or {}).values() for event in group]
        uris = [event.extra["uri"] for event in events if "uri" in (event.extra or {})]
        if not uris and params and params["backup"]:
            uris = [params["backup"]]
        if not uris:
            raise AirflowSkipException("no backup has triggered this run, and none is given")
        return list(dict.fromkeys(uris))

    PgS3VerifyOperator.partial(**VERIFICATION).expand(backup=new_backups())
