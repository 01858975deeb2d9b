"""Back up or restore now: trigger this DAG by hand and fill in the form.

The param `mode` decides which. A restore takes the backup whose URI you give, or the latest one of `database`.
Connections and the repository come from the form; environment variables of the Airflow processes change its
defaults: `PG_S3_REPOSITORY` (`s3://backups/postgres`), `PG_S3_SOURCE_CONN_ID` (`postgres_default`),
`PG_S3_TARGET_CONN_ID` (`postgres_target`), `PG_S3_AWS_CONN_ID` (`aws_default`), `PG_S3_DATABASE` (empty: the one
that the source connection names), `PG_S3_AGE_IDENTITY_CONN_ID` (holds the age identity of encrypted backups),
`PG_S3_JOBS` (`2`), `PG_S3_TIMEOUT_HOURS` (`12`).
"""

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, task

from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator

REPOSITORY = os.environ.get("PG_S3_REPOSITORY", "s3://backups/postgres")
TIMEOUT = timedelta(hours=float(os.environ.get("PG_S3_TIMEOUT_HOURS", "12")))


@task.branch
def choose(**context: Any) -> str:
    """Name the task that this run starts with."""
    params = context["params"]
    if params["mode"] == "backup":
        return "backup"
    return "restore" if params["backup"] else "latest"


with DAG(
    dag_id="pg_s3_on_demand",
    description="Back up or restore a PostgreSQL database now",
    doc_md=__doc__,
    user_defined_macros={"database_of": database_of},
    schedule=None,
    tags=["pg_s3", "backup", "restore"],
    # Lists and numbers reach the operators as such. Text that looks like a Python value would be converted to one,
    # so names go through tojson: the database 1_000 stays a name.
    render_template_as_native_obj=True,
    params={
        "mode": Param("backup", type="string", enum=["backup", "restore"], description="What to do"),
        "repository": Param(
            REPOSITORY, type="string", pattern="^s3://[^/]+", description="s3://bucket/prefix of the backups"
        ),
        "aws_conn_id": Param(
            os.environ.get("PG_S3_AWS_CONN_ID", "aws_default"),
            type="string",
            minLength=1,
            description="Connection of the S3 account",
        ),
        "source_conn_id": Param(
            os.environ.get("PG_S3_SOURCE_CONN_ID", "postgres_default"),
            type="string",
            minLength=1,
            description="Connection of the server to back up",
        ),
        "database": Param(
            os.environ.get("PG_S3_DATABASE", ""),
            type=["string", "null"],
            description="Database to back up, or whose latest backup is restored; "
            "empty: the one that source_conn_id names",
        ),
        "include_globals": Param(
            False,
            type="boolean",
            description="Store the server's roles and tablespaces too, without passwords (backups only)",
        ),
        "jobs": Param(
            int(os.environ.get("PG_S3_JOBS", "2")),
            type="integer",
            minimum=1,
            maximum=64,
            description="Tables read or restored in parallel",
        ),
        "backup": Param(
            "",
            type=["string", "null"],
            pattern="^(s3://[^/]+/.+)?$",
            title="backup URI",
            description="s3:// URI of the backup to restore; empty: the latest one of `database`",
            section="Restore",
        ),
        "target_conn_id": Param(
            os.environ.get("PG_S3_TARGET_CONN_ID", "postgres_target"),
            type="string",
            minLength=1,
            description="Connection of the server to restore into",
            section="Restore",
        ),
        "target_database": Param(
            "",
            type=["string", "null"],
            description="Database to restore into; empty: that of target_conn_id, which is only replaced if "
            "it has the name of the one that was backed up",
            section="Restore",
        ),
        "if_exists": Param(
            "fail",
            type="string",
            enum=["fail", "clean", "replace"],
            description="When the target holds objects: fail, drop what the backup brings, or take its place",
            section="Restore",
        ),
        "allow_partial": Param(
            False,
            type="boolean",
            description="Allow replace and clean to lose what pg_dump's options left out of the backup",
            section="Restore",
        ),
        "tables": Param(
            [],
            type=["array", "null"],
            items={"type": "string", "minLength": 1},
            description="Restore these tables only, one per line; empty: everything",
            section="Restore",
        ),
        "pg_restore_options": Param(
            [],
            type=["array", "null"],
            items={"type": "string", "pattern": "^-"},
            description="Further options of pg_restore, one per line, such as --no-comments; none that selects",
            section="Restore",
        ),
        "no_owner": Param(
            False,
            type="boolean",
            description="Make the user of target_conn_id the owner of everything",
            section="Restore",
        ),
        "no_privileges": Param(
            False,
            type="boolean",
            description="Leave out GRANT and REVOKE",
            section="Restore",
        ),
        "restore_globals": Param(
            False,
            type="boolean",
            description="First create the roles that the backup holds (include_globals) and the target lacks",
            section="Restore",
        ),
        "managed_service": Param(
            False,
            type="boolean",
            description="The target is a managed service (RDS, Azure): leave out what only superusers may create",
            section="Restore",
        ),
    },
) as dag:
    backup = PgS3BackupOperator(
        task_id="backup",
        repository="{{ params.repository | tojson }}",
        postgres_conn_id="{{ params.source_conn_id | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ (params.database or database_of(params.source_conn_id)) | tojson }}",
        jobs="{{ params.jobs }}",
        include_globals="{{ params.include_globals }}",
        execution_timeout=TIMEOUT,
        outlets=[Asset(REPOSITORY, group="pg_s3")],
    )
    latest = PgS3ListBackupsOperator(
        task_id="latest",
        repository="{{ params.repository | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ (params.database or database_of(params.source_conn_id)) | tojson }}",
        limit=1,
    )
    restore = PgS3RestoreOperator(
        task_id="restore",
        backup="{{ (params.backup or ti.xcom_pull(task_ids='latest')[0]['uri']) | tojson }}",
        postgres_conn_id="{{ params.target_conn_id | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ params.target_database | tojson if params.target_database else none }}",
        if_exists="{{ params.if_exists }}",
        allow_partial="{{ params.allow_partial }}",
        jobs="{{ params.jobs }}",
        tables="{{ params.tables or none }}",
        pg_restore_options="{{ params.pg_restore_options or [] }}",
        no_owner="{{ params.no_owner }}",
        no_privileges="{{ params.no_privileges }}",
        restore_globals="{{ params.restore_globals }}",
        managed_service="{{ params.managed_service }}",
        age_identity_conn_id=os.environ.get("PG_S3_AGE_IDENTITY_CONN_ID") or None,
        execution_timeout=TIMEOUT,
        trigger_rule="none_failed_min_one_success",  # `latest` is skipped when a URI is given
    )
    choose() >> [backup, latest, restore]
    latest >> restore
