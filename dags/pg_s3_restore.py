"""Restore the latest backup into another server, on a schedule of its own (off until you set one).

Nothing here needs editing. The list task finds the newest complete backup, the restore takes its URI from XCom.
With `replace`, the old database stays as `<database>__before_<6 hex digits>`, for you to drop, if you keep it.
Environment variables of the Airflow processes change the defaults; each run can override the params.
Without `PG_S3_REPOSITORY`, the only repository in `[pg_s3] repositories` is taken, with its connection.

| variable                      | default                 | meaning |
|-------------------------------|-------------------------|----------------------------------------|
| `PG_S3_RESTORE_SCHEDULE`      |                         | cron expression or preset; empty: manual runs only |
| `PG_S3_RESTORE_IF_EXISTS`     | `fail`                  | `clean` drops what the backup brings, `replace` swaps |
| `PG_S3_RESTORE_KEEP_PREVIOUS` | `true`                  | `false`: drop the old database after a `replace` |
| `PG_S3_ALLOW_PARTIAL`         | `false`                 | `true` also takes backups that left something out |
| `PG_S3_AGE_IDENTITY_CONN_ID`  |                         | holds the age identity of encrypted backups |
| `PG_S3_VERIFIED_ONLY`         | `false`                 | `true`: only backups that were restored and compared |
| `PG_S3_NO_OWNER`              | `false`                 | `true`: the connection's user owns everything |
| `PG_S3_NO_PRIVILEGES`         | `false`                 | `true`: without GRANT and REVOKE |
| `PG_S3_RESTORE_GLOBALS`       | `false`                 | `true`: first create missing roles, if it has them |
| `PG_S3_EXTRA_ARGS`            |                         | arguments of S3 requests (SSE-C, …), a JSON object |
| `PG_S3_POOL`                  | `default_pool`          | Airflow pool that the restore takes a slot of |
| `PG_S3_REPOSITORY`            | `s3://backups/postgres` | where backups are stored |
| `PG_S3_SOURCE_CONN_ID`        | `postgres_default`      | names the database whose backups count |
| `PG_S3_DATABASE`              |                         | that database; empty: the connection's own |
| `PG_S3_TARGET_CONN_ID`        |                         | the server and database restored into; needed |
| `PG_S3_TARGET_DATABASE`       |                         | that database; empty: the connection's own, see below |
| `PG_S3_MANAGED_SERVICE`       | `false`                 | `true`: the server is RDS, Cloud SQL, Azure or so |
| `PG_S3_AWS_CONN_ID`           | `aws_default`           | the S3 account |
| `PG_S3_JOBS`                  | `2`                     | tables and indexes restored in parallel |
| `PG_S3_TIMEOUT_HOURS`         | `12`                    | a try that takes longer is stopped |

A database with another name than the one that was backed up is only replaced if `PG_S3_TARGET_DATABASE` names it.
"""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from airflow_pg_s3 import form_fields
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
        "repository": form_fields.repository(),
        "aws_conn_id": form_fields.aws_conn_id(),
        "postgres_conn_id": form_fields.named_by_conn_id(),
        "database": form_fields.database("whose latest backup is restored"),
        "verified_only": form_fields.verified_only(),
        "before": form_fields.before(),
        "age_identity_conn_id": form_fields.identity_conn_id(),
        "target_conn_id": form_fields.target_conn_id(),
        "target_database": form_fields.target_database(),
        "if_exists": form_fields.if_exists(os.environ.get("PG_S3_RESTORE_IF_EXISTS", "fail")),
        "allow_partial": form_fields.allow_partial(),
        "jobs": form_fields.jobs(),
        **form_fields.part(),
        **form_fields.rights(),
    },
) as dag:
    latest = PgS3ListBackupsOperator(
        task_id="latest",
        repository="{{ params.repository | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ (params.database or database_of(params.postgres_conn_id)) | tojson }}",
        verified_only="{{ params.verified_only }}",
        before="{{ params.before | tojson if params.before else none }}",
        limit=1,
        s3_extra_args=form_fields.s3_extra_args(),
    )
    restore = PgS3RestoreOperator(
        task_id="restore",
        backup="{{ ti.xcom_pull(task_ids='latest')[0]['uri'] | tojson }}",
        postgres_conn_id="{{ params.target_conn_id | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ params.target_database | tojson if params.target_database else none }}",
        if_exists="{{ params.if_exists }}",
        allow_partial="{{ params.allow_partial }}",
        keep_previous=form_fields.is_set("PG_S3_RESTORE_KEEP_PREVIOUS", default=True),
        tables="{{ params.tables or none }}",
        schemas="{{ params.schemas or none }}",
        data_only="{{ params.data_only }}",
        no_owner="{{ params.no_owner }}",
        no_privileges="{{ params.no_privileges }}",
        restore_globals="{{ params.restore_globals }}",
        managed_service="{{ params.managed_service }}",
        age_identity_conn_id="{{ (params.age_identity_conn_id or '') | tojson }}",
        jobs="{{ params.jobs }}",
        s3_extra_args=form_fields.s3_extra_args(),
        pool=form_fields.pool(),
        execution_timeout=form_fields.time_limit(),
    )
    latest >> restore
