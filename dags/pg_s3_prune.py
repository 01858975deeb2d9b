"""Delete old backups by retention rules, on a schedule of its own (off until you set one).

Nothing here needs editing. A manual run only logs what it would delete, unless `dry_run` is switched off.
What the rules mean, and what is never deleted: docs/retention.md.
Environment variables of the Airflow processes change the defaults; each run can override the params.
Without `PG_S3_REPOSITORY`, the only repository in `[pg_s3] repositories` is taken, with its connection.

| variable                | default                 | meaning |
|-------------------------|-------------------------|----------------------------------------|
| `PG_S3_PRUNE_SCHEDULE`  |                         | cron expression or preset; empty: manual runs only |
| `PG_S3_PRUNE_DRY_RUN`   | `true`                  | `false`: delete what no rule keeps |
| `PG_S3_KEEP_LAST`       | `3`                     | number of newest backups to keep |
| `PG_S3_KEEP_DAILY`      | `14`                    | number of days to keep one backup for |
| `PG_S3_KEEP_WEEKLY`     | `8`                     | number of weeks to keep one backup for |
| `PG_S3_KEEP_MONTHLY`    | `12`                    | number of months to keep one backup for |
| `PG_S3_KEEP_YEARLY`     | `0`                     | number of years to keep one backup for |
| `PG_S3_PRUNE_TIMEZONE`  | `UTC`                   | time zone of days, weeks, months and years |
| `PG_S3_REPOSITORY`      | `s3://backups/postgres` | where backups are stored |
| `PG_S3_DATABASE`        |                         | only its backups; empty: those of every database |
| `PG_S3_AWS_CONN_ID`     | `aws_default`           | the S3 account; it must be allowed to delete |
| `PG_S3_EXTRA_ARGS`      |                         | arguments of S3 requests (SSE-C, …), a JSON object |
"""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from airflow_pg_s3 import form_fields
from airflow_pg_s3.operators.prune import PgS3PruneOperator

RULES = {"keep_last": "3", "keep_daily": "14", "keep_weekly": "8", "keep_monthly": "12", "keep_yearly": "0"}

with DAG(
    dag_id="pg_s3_prune",
    description="Delete old PostgreSQL backups on S3 by retention rules",
    doc_md=__doc__,
    schedule=os.environ.get("PG_S3_PRUNE_SCHEDULE") or None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["pg_s3", "retention"],
    # None means every database. Names go through tojson: the database 1_000 stays a name.
    render_template_as_native_obj=True,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "repository": form_fields.repository(),
        "aws_conn_id": form_fields.aws_conn_id(),
        "database": form_fields.database("whose backups are pruned", otherwise="all, each by itself"),
        **{
            rule: Param(
                int(os.environ.get(f"PG_S3_{rule.upper()}", number)),
                type="integer",
                minimum=0,
                title=f"Keep {rule.removeprefix('keep_')}",
                description="Number of backups that this rule keeps; 0 turns it off",
            )
            for rule, number in RULES.items()
        },
        "timezone": Param(
            os.environ.get("PG_S3_PRUNE_TIMEZONE", "UTC"),
            type="string",
            minLength=1,
            title="Time zone",
            description="IANA name of the time zone in which days, weeks, months and years begin",
        ),
        "dry_run": Param(
            form_fields.is_set("PG_S3_PRUNE_DRY_RUN", default=True),
            type="boolean",
            title="Dry run",
            description="Only log what would be deleted",
        ),
    },
) as dag:
    PgS3PruneOperator(
        task_id="prune",
        repository="{{ params.repository | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ params.database | tojson if params.database else none }}",
        keep_last="{{ params.keep_last }}",
        keep_daily="{{ params.keep_daily }}",
        keep_weekly="{{ params.keep_weekly }}",
        keep_monthly="{{ params.keep_monthly }}",
        keep_yearly="{{ params.keep_yearly }}",
        timezone="{{ params.timezone | tojson }}",
        dry_run="{{ params.dry_run }}",
        s3_extra_args=form_fields.s3_extra_args(),
    )
