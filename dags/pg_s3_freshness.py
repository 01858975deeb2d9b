"""Fail, every hour, if the newest backup is too old, or the newest verified one.

Nothing here needs editing. Connect the failure to an alert: docs/monitoring.md has recipes.
Environment variables of the Airflow processes change the defaults; each run can override the params.
Without `PG_S3_REPOSITORY`, the only repository in `[pg_s3] repositories` is taken, with its connection.

| variable                      | default                 | meaning |
|-------------------------------|-------------------------|----------------------------------------|
| `PG_S3_FRESHNESS_SCHEDULE`    | `30 * * * *`            | cron expression or preset; empty: manual runs only |
| `PG_S3_MAX_AGE_HOURS`         | `26`                    | maximum age of the newest backup |
| `PG_S3_MAX_VERIFIED_AGE_HOURS`| `36`                    | the same for the newest verified one; 0: not checked |
| `PG_S3_REPOSITORY`            | `s3://backups/postgres` | where backups are stored |
| `PG_S3_SOURCE_CONN_ID`        | `postgres_default`      | names the database whose backups count |
| `PG_S3_DATABASE`              |                         | that database; empty: the one the connection names |
| `PG_S3_AWS_CONN_ID`           | `aws_default`           | the S3 account |
| `PG_S3_EXTRA_ARGS`            |                         | arguments of S3 requests (SSE-C, …), a JSON object |
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_pg_s3 import form_fields
from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.sensors.freshness import PgS3BackupFreshnessSensor

MAX_AGE = timedelta(hours=float(os.environ.get("PG_S3_MAX_AGE_HOURS", "26")))
MAX_VERIFIED_AGE = timedelta(hours=float(os.environ.get("PG_S3_MAX_VERIFIED_AGE_HOURS", "36")))

with DAG(
    dag_id="pg_s3_freshness",
    description="Fail if there is no young PostgreSQL backup on S3",
    doc_md=__doc__,
    user_defined_macros={"database_of": database_of},
    schedule=os.environ.get("PG_S3_FRESHNESS_SCHEDULE", "30 * * * *") or None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pg_s3", "monitoring"],
    # Retries are for errors of S3. A backup that is too old fails at once.
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "repository": form_fields.repository(),
        "aws_conn_id": form_fields.aws_conn_id(),
        "postgres_conn_id": form_fields.named_by_conn_id(),
        "database": form_fields.database(),
    },
) as dag:
    where: dict[str, Any] = {
        "repository": "{{ params.repository }}",
        "aws_conn_id": "{{ params.aws_conn_id }}",
        "database": "{{ params.database or database_of(params.postgres_conn_id) }}",
        "s3_extra_args": form_fields.s3_extra_args(),
        "timeout": 0,  # check once: the next run checks again
    }
    PgS3BackupFreshnessSensor(task_id="backed_up", max_age=MAX_AGE, verified_only=False, **where)
    if MAX_VERIFIED_AGE:
        PgS3BackupFreshnessSensor(task_id="verified", max_age=MAX_VERIFIED_AGE, **where)
