"""Refresh staging from production: its latest verified backup takes the staging database's place.

The backup is restored beside the old staging database, the masking commands run in it, and then the two databases
swap names in one transaction: nobody ever sees half a database, or what the commands mask. The old one is dropped.
**Without `PG_S3_REFRESH_SQL` nothing is masked.**
Nothing here needs editing. Environment variables of the Airflow processes change the defaults; each run can
override the params.
Without `PG_S3_REPOSITORY`, the only repository in `[pg_s3] repositories` is taken, with its connection.

| variable                      | default                 | meaning |
|-------------------------------|-------------------------|----------------------------------------|
| `PG_S3_REFRESH_SCHEDULE`      |                         | cron expression or preset; empty: manual runs only |
| `PG_S3_REFRESH_SQL`           |                         | commands that mask data, run before the swap |
| `PG_S3_PRE_RESTORE_SQL`       |                         | commands run before the restore, for extensions |
| `PG_S3_REFRESH_VERIFIED_ONLY` | `true`                  | `false` also takes backups that are not verified |
| `PG_S3_ALLOW_PARTIAL`         | `false`                 | `true` also takes backups that left something out |
| `PG_S3_AGE_IDENTITY_CONN_ID`  |                         | holds the age identity of encrypted backups |
| `PG_S3_NO_OWNER`              | `false`                 | `true`: the connection's user owns everything |
| `PG_S3_NO_PRIVILEGES`         | `false`                 | `true`: without GRANT and REVOKE |
| `PG_S3_RESTORE_GLOBALS`       | `false`                 | `true`: first create missing roles, if it has them |
| `PG_S3_EXTRA_ARGS`            |                         | arguments of S3 requests (SSE-C, …), a JSON object |
| `PG_S3_POOL`                  | `default_pool`          | Airflow pool that the restore takes a slot of |
| `PG_S3_REPOSITORY`            | `s3://backups/postgres` | where backups are stored |
| `PG_S3_SOURCE_CONN_ID`        | `postgres_default`      | names the database whose backups count |
| `PG_S3_DATABASE`              |                         | that database; empty: the connection's own |
| `PG_S3_STAGING_CONN_ID`       | `postgres_staging`      | the server and database to refresh |
| `PG_S3_MANAGED_SERVICE`       | `false`                 | `true`: staging is on RDS, Cloud SQL, Azure or so |
| `PG_S3_AWS_CONN_ID`           | `aws_default`           | the S3 account |
| `PG_S3_JOBS`                  | `2`                     | tables and indexes restored in parallel |
| `PG_S3_TIMEOUT_HOURS`         | `12`                    | a try that takes longer is stopped |
"""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from airflow_pg_s3 import form_fields
from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator

with DAG(
    dag_id="pg_s3_refresh_staging",
    description="Replace a staging database by production's latest backup",
    doc_md=__doc__,
    user_defined_macros={"database_of": database_of},
    schedule=os.environ.get("PG_S3_REFRESH_SCHEDULE") or None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pg_s3", "restore"],
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
        "verified_only": form_fields.verified_only("PG_S3_REFRESH_VERIFIED_ONLY", default=True),
        "before": form_fields.before(),
        "age_identity_conn_id": form_fields.identity_conn_id(),
        "staging_conn_id": form_fields.staging_conn_id(),
        "pre_restore_sql": Param(
            os.environ.get("PG_S3_PRE_RESTORE_SQL", ""),
            type=["string", "null"],
            format="multiline",
            title="SQL before the restore",
            description="Commands that run in the new database before it is filled, for extensions",
        ),
        "post_restore_sql": Param(
            os.environ.get("PG_S3_REFRESH_SQL", ""),
            type=["string", "null"],
            format="multiline",
            title="SQL that masks data",
            description="Runs in one transaction, before anybody sees the new database; empty: nothing is masked",
        ),
        "jobs": form_fields.jobs(),
        **form_fields.rights(),
    },
) as dag:
    latest = PgS3ListBackupsOperator(
        task_id="latest",
        repository="{{ params.repository }}",
        aws_conn_id="{{ params.aws_conn_id }}",
        database="{{ params.database or database_of(params.postgres_conn_id) }}",
        verified_only="{{ params.verified_only }}",
        before="{{ params.before or '' }}",
        limit=1,
        s3_extra_args=form_fields.s3_extra_args(),
    )
    refresh = PgS3RestoreOperator(
        task_id="refresh",
        backup="{{ ti.xcom_pull(task_ids='latest')[0]['uri'] }}",
        postgres_conn_id="{{ params.staging_conn_id }}",
        # The database is named, as it is replaced by the backup of a database with another name.
        database="{{ database_of(params.staging_conn_id) }}",
        aws_conn_id="{{ params.aws_conn_id }}",
        if_exists="replace",
        allow_partial=form_fields.is_set("PG_S3_ALLOW_PARTIAL"),
        keep_previous=False,
        no_owner="{{ params.no_owner }}",
        no_privileges="{{ params.no_privileges }}",
        restore_globals="{{ params.restore_globals }}",
        managed_service="{{ params.managed_service }}",
        pre_restore_sql="{{ params.pre_restore_sql or '' }}",
        post_restore_sql="{{ params.post_restore_sql or '' }}",
        age_identity_conn_id="{{ params.age_identity_conn_id or '' }}",
        jobs="{{ params.jobs }}",
        s3_extra_args=form_fields.s3_extra_args(),
        pool=form_fields.pool(),
        execution_timeout=form_fields.time_limit(),
    )
    latest >> refresh
