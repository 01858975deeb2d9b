"""Restore the latest backup into another server, on a schedule of its own (off until you set one).

Nothing here needs editing. The list task finds the newest complete backup, the restore takes its URI from XCom.
With `replace`, the old database stays as `<database>__before_<6 hex digits>`, for you to drop, if you keep it.
Environment variables of the Airflow processes change the defaults; each run can override the params.

| variable                      | default                 | meaning |
|-------------------------------|-------------------------|----------------------------------------|
| `PG_S3_RESTORE_SCHEDULE`      |                         | cron expression or preset; empty: manual runs only |
| `PG_S3_RESTORE_IF_EXISTS`     | `fail`                  | `clean` drops what the backup brings, `replace` swaps |
| `PG_S3_RESTORE_KEEP_PREVIOUS` | `true`                  | `false`: drop the old database after a `replace` |
| `PG_S3_ALLOW_PARTIAL`         | `false`                 | `true` also takes backups that left something out |
| `PG_S3_AGE_IDENTITY_CONN_ID`  |                         | holds the age identity of encrypted backups |
| `PG_S3_REPOSITORY`            | `s3://backups/postgres` | where backups are stored |
| `PG_S3_SOURCE_CONN_ID`        | `postgres_default`      | names the database whose backups count |
| `PG_S3_DATABASE`              |                         | that database; empty: the connection's own |
| `PG_S3_TARGET_CONN_ID`        | `postgres_target`       | the server and database restored into |
| `PG_S3_TARGET_DATABASE`       |                         | that database; empty: the connection's own, see below |
| `PG_S3_MANAGED_SERVICE`       | `false`                 | `true`: the server is RDS, Cloud SQL, Azure or so |
| `PG_S3_AWS_CONN_ID`           | `aws_default`           | the S3 account |
| `PG_S3_JOBS`                  | `2`                     | tables and indexes restored in parallel |
| `PG_S3_TIMEOUT_HOURS`         | `12`                    | a try that takes longer is stopped |

A database with another name than the one that was backed up is only replaced if `PG_S3_TARGET_DATABASE` names it.
"""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator

with DAG(
    dag_id="pg_s3_restore",
    description="Restore the latest PostgreSQL backup from S3",
    doc_md=__doc__,
    user_defined_macros={"database_of": database_of},
    schedule=os.environ.get("PG_S3_RESTORE_SCHEDULE") or None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pg_s3", "restore"],
    # None means that no database is named. Names go through tojson: the database 1_000 stays a name.
    render_template_as_native_obj=True,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=30),
    },
    params={
        "repository": Param(
            os.environ.get("PG_S3_REPOSITORY", "s3://backups/postgres"),
            type="string",
            pattern="^s3://[^/]+",
            description="s3://bucket/prefix to read from",
        ),
        "aws_conn_id": Param(
            os.environ.get("PG_S3_AWS_CONN_ID", "aws_default"),
            type="string",
            minLength=1,
            description="Connection of the S3 account",
        ),
        "postgres_conn_id": Param(
            os.environ.get("PG_S3_SOURCE_CONN_ID", "postgres_default"),
            type="string",
            minLength=1,
            description="Connection that names the database whose backups count (it is not connected to)",
        ),
        "database": Param(
            os.environ.get("PG_S3_DATABASE", ""),
            type=["string", "null"],
            description="Database whose latest backup is restored; empty: the one that postgres_conn_id names",
        ),
        "target_conn_id": Param(
            os.environ.get("PG_S3_TARGET_CONN_ID", "postgres_target"),
            type="string",
            minLength=1,
            description="Connection of the server and database to restore into",
        ),
        "target_database": Param(
            os.environ.get("PG_S3_TARGET_DATABASE", ""),
            type=["string", "null"],
            description="Database to restore into; empty: that of target_conn_id, which is only replaced if "
            "it has the name of the one that was backed up",
        ),
        "if_exists": Param(
            os.environ.get("PG_S3_RESTORE_IF_EXISTS", "fail"),
            type="string",
            enum=["fail", "clean", "replace"],
            description="When the target holds objects: fail, drop what the backup brings, or take its place",
        ),
        "jobs": Param(
            int(os.environ.get("PG_S3_JOBS", "2")),
            type="integer",
            minimum=1,
            maximum=64,
            description="Tables and indexes restored in parallel",
        ),
    },
) as dag:
    latest = PgS3ListBackupsOperator(
        task_id="latest",
        repository="{{ params.repository | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ (params.database or database_of(params.postgres_conn_id)) | tojson }}",
        limit=1,
    )
    restore = PgS3RestoreOperator(
        task_id="restore",
        backup="{{ ti.xcom_pull(task_ids='latest')[0]['uri'] | tojson }}",
        postgres_conn_id="{{ params.target_conn_id | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ params.target_database | tojson if params.target_database else none }}",
        if_exists="{{ params.if_exists }}",
        allow_partial=os.environ.get("PG_S3_ALLOW_PARTIAL", "false"),
        keep_previous=os.environ.get("PG_S3_RESTORE_KEEP_PREVIOUS", "true").strip().lower() != "false",
        managed_service=os.environ.get("PG_S3_MANAGED_SERVICE", "false"),
        age_identity_conn_id=os.environ.get("PG_S3_AGE_IDENTITY_CONN_ID") or None,
        jobs="{{ params.jobs }}",
        execution_timeout=timedelta(hours=float(os.environ.get("PG_S3_TIMEOUT_HOURS", "12"))),
    )
    latest >> restore
