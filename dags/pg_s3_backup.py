"""Back a PostgreSQL database up to S3, every night.

Nothing here needs editing. Source and S3 are the connections `postgres_default` and `aws_default`.
Environment variables of the Airflow processes change the defaults; each run can override the params.
Without `PG_S3_REPOSITORY`, the only repository in `[pg_s3] repositories` is taken, with its connection.

| variable                   | default                 | meaning                                             |
|----------------------------|-------------------------|-----------------------------------------------------|
| `PG_S3_BACKUP_SCHEDULE`    | `0 3 * * *`             | cron expression or preset; empty: manual runs only  |
| `PG_S3_REPOSITORY`         | `s3://backups/postgres` | where backups are stored                            |
| `PG_S3_SOURCE_CONN_ID`     | `postgres_default`      | the server to back up                               |
| `PG_S3_AWS_CONN_ID`        | `aws_default`           | the S3 account                                      |
| `PG_S3_DATABASE`           |                         | the database; empty: the one the connection names   |
| `PG_S3_JOBS`               | `2`                     | tables read in parallel                             |
| `PG_S3_INCLUDE_GLOBALS`    | `false`                 | `true`: store the server's roles as well            |
| `PG_S3_AGE_RECIPIENTS`     |                         | age recipients to encrypt for, separated by spaces  |
| `PG_S3_LABELS`             |                         | labels, a JSON object                               |
| `PG_S3_EXTRA_ARGS`         |                         | arguments of S3 requests (KMS, …), a JSON object    |
| `PG_S3_POOL`               | `default_pool`          | Airflow pool that the backup takes a slot of        |
| `PG_S3_TIMEOUT_HOURS`      | `12`                    | a try that takes longer is stopped                  |
"""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset

from airflow_pg_s3 import form_fields
from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.operators.backup import PgS3BackupOperator

with DAG(
    dag_id="pg_s3_backup",
    description="Back a PostgreSQL database up to S3",
    doc_md=__doc__,
    user_defined_macros={"database_of": database_of},
    schedule=os.environ.get("PG_S3_BACKUP_SCHEDULE", "0 3 * * *") or None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pg_s3", "backup"],
    # Lists reach the operator as such. Names go through tojson: the database 1_000 stays a name.
    render_template_as_native_obj=True,
    params={
        "repository": form_fields.repository(),
        "postgres_conn_id": form_fields.source_conn_id(),
        "aws_conn_id": form_fields.aws_conn_id(),
        "database": form_fields.database("to back up"),
        "jobs": form_fields.jobs(),
        **form_fields.stored(),
    },
) as dag:
    PgS3BackupOperator(
        task_id="backup",
        repository="{{ params.repository | tojson }}",
        postgres_conn_id="{{ params.postgres_conn_id | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ (params.database or database_of(params.postgres_conn_id)) | tojson }}",
        jobs="{{ params.jobs }}",
        include_globals="{{ params.include_globals }}",
        age_recipients="{{ params.age_recipients or [] }}",
        labels="{{ params.labels or {} }}",
        full="{{ params.full }}",
        s3_extra_args=form_fields.s3_extra_args(),
        pool=form_fields.pool(),
        retries=3,
        retry_delay=timedelta(minutes=1),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(minutes=30),
        execution_timeout=form_fields.time_limit(),
        # Each event of this asset has the facts about one backup: uri, sizes, tables, rows, seconds.
        outlets=[Asset(form_fields.default_repository(), group="pg_s3")],
    )
