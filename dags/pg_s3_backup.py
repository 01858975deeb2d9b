"""Back a PostgreSQL database up to S3, every night.

Nothing here needs editing. Source and S3 are the connections `postgres_default` and `aws_default`.
Environment variables of the Airflow processes change the defaults; each run can override the params.

| variable                   | default                 | meaning                                             |
|----------------------------|-------------------------|-----------------------------------------------------|
| `PG_S3_BACKUP_SCHEDULE`    | `0 3 * * *`             | cron expression or preset; empty: manual runs only  |
| `PG_S3_REPOSITORY`         | `s3://backups/postgres` | where backups are stored                            |
| `PG_S3_SOURCE_CONN_ID`     | `postgres_default`      | the server to back up                               |
| `PG_S3_AWS_CONN_ID`        | `aws_default`           | the S3 account                                      |
| `PG_S3_DATABASE`           |                         | the database; empty: the one the connection names   |
| `PG_S3_JOBS`               | `2`                     | tables read in parallel                             |
| `PG_S3_TIMEOUT_HOURS`      | `12`                    | a try that takes longer is stopped                  |
"""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset, Param

from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.operators.backup import PgS3BackupOperator

REPOSITORY = os.environ.get("PG_S3_REPOSITORY", "s3://backups/postgres")

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
    params={
        "repository": Param(
            REPOSITORY, type="string", pattern="^s3://[^/]+", description="s3://bucket/prefix to write to"
        ),
        "postgres_conn_id": Param(
            os.environ.get("PG_S3_SOURCE_CONN_ID", "postgres_default"),
            type="string",
            minLength=1,
            description="Connection of the server to back up",
        ),
        "aws_conn_id": Param(
            os.environ.get("PG_S3_AWS_CONN_ID", "aws_default"),
            type="string",
            minLength=1,
            description="Connection of the S3 account",
        ),
        "database": Param(
            os.environ.get("PG_S3_DATABASE", ""),
            type=["string", "null"],
            description="Database to back up; empty: the one that the connection names",
        ),
        "jobs": Param(
            int(os.environ.get("PG_S3_JOBS", "2")),
            type="integer",
            minimum=1,
            maximum=64,
            description="Tables read in parallel",
        ),
    },
) as dag:
    PgS3BackupOperator(
        task_id="backup",
        repository="{{ params.repository }}",
        postgres_conn_id="{{ params.postgres_conn_id }}",
        aws_conn_id="{{ params.aws_conn_id }}",
        database="{{ params.database or database_of(params.postgres_conn_id) }}",
        jobs="{{ params.jobs }}",
        retries=3,
        retry_delay=timedelta(minutes=1),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(minutes=30),
        execution_timeout=timedelta(hours=float(os.environ.get("PG_S3_TIMEOUT_HOURS", "12"))),
        # Each event of this asset has the facts about one backup: uri, sizes, tables, rows, seconds.
        outlets=[Asset(REPOSITORY, group="pg_s3")],
    )
