"""Back every database of several PostgreSQL servers up to S3, each in a task of its own.

A server is an Airflow connection, and has a repository of its own: the connection's name below `PG_S3_REPOSITORY`.
Each run lists the server's databases, so that new ones are backed up as well. The pool limits how many databases
are backed up at the same time: create one with as many slots as your servers and workers can bear. If a server or
a database fails, the others are backed up all the same.
With the same `PG_S3_FLEET_SERVERS`, `pg_s3_verify_new_backup` verifies these backups as well. The other DAGs work
on one repository: docs/scale.md shows how to prune all of them, and how to be alerted of missing backups.
Without `PG_S3_REPOSITORY`, the only repository in `[pg_s3] repositories` is taken, with its connection.

| variable                        | default                 | meaning                                             |
|---------------------------------|-------------------------|-----------------------------------------------------|
| `PG_S3_FLEET_SCHEDULE`          |                         | cron expression or preset; empty: manual runs only  |
| `PG_S3_FLEET_SERVERS`           | `postgres_default`      | connections of the servers, separated by spaces     |
| `PG_S3_FLEET_EXCLUDE`           |                         | databases to leave out: a regular expression        |
| `PG_S3_FLEET_MAX_ACTIVE_TASKS`  | `16`                    | tasks of a run at a time, besides the pool's limit  |
| `PG_S3_REPOSITORY`              | `s3://backups/postgres` | prefix of the servers' repositories                 |
| `PG_S3_AWS_CONN_ID`             | `aws_default`           | the S3 account                                      |
| `PG_S3_POOL`                    | `default_pool`          | Airflow pool that each backup takes a slot of       |
| `PG_S3_JOBS`                    | `2`                     | tables of a database read in parallel               |
| `PG_S3_INCLUDE_GLOBALS`         | `false`                 | `true`: store the servers' roles as well            |
| `PG_S3_AGE_RECIPIENTS`          |                         | age recipients to encrypt for, separated by spaces  |
| `PG_S3_LABELS`                  |                         | labels, a JSON object                               |
| `PG_S3_EXTRA_ARGS`              |                         | arguments of S3 requests (KMS, …), a JSON object    |
| `PG_S3_TIMEOUT_HOURS`           | `12`                    | a try that takes longer is stopped                  |
"""

import os
import re
from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import DAG, Asset, TaskGroup, task

from airflow_pg_s3 import form_fields
from airflow_pg_s3.operators.backup import PgS3BackupOperator

REPOSITORY = form_fields.default_repository().rstrip("/")
EXCLUDED = re.compile(os.environ.get("PG_S3_FLEET_EXCLUDE", ""))


@task(retries=3, retry_delay=timedelta(minutes=1))
def databases(postgres_conn_id: str) -> list[str]:
    """Return the names of a server's databases."""
    # With all of core, which Airflow need not import to parse a DAG.
    from airflow_pg_s3.hooks.pg_s3 import PgS3Hook

    wanted = [name for name in PgS3Hook().databases(postgres_conn_id) if not EXCLUDED.fullmatch(name)]
    if not wanted:
        raise AirflowSkipException(f"{postgres_conn_id} has no database to back up")
    return wanted


with DAG(
    dag_id="pg_s3_fleet",
    description="Back all databases of several PostgreSQL servers up to S3",
    doc_md=__doc__,
    schedule=os.environ.get("PG_S3_FLEET_SCHEDULE") or None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    max_active_tasks=int(os.environ.get("PG_S3_FLEET_MAX_ACTIVE_TASKS", "16")),
    tags=["pg_s3", "backup"],
    render_template_as_native_obj=True,  # lists reach the operator as such
    params=form_fields.stored(),
):
    for server in os.environ.get("PG_S3_FLEET_SERVERS", "postgres_default").split():
        repository = f"{REPOSITORY}/{server}"
        with TaskGroup(server.replace(".", "_")):
            PgS3BackupOperator.partial(
                task_id="backup",
                map_index_template="{{ task.database }}",
                repository=repository,
                postgres_conn_id=server,
                aws_conn_id=form_fields.default_aws_conn_id(),
                jobs=int(os.environ.get("PG_S3_JOBS", "2")),
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
                outlets=[Asset(repository, group="pg_s3")],
            ).expand(database=databases(server))
