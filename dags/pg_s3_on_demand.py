"""Back up or restore now: trigger this DAG by hand and fill in the form.

The param `mode` decides which. A restore takes the backup whose URI you give, or the latest one of `database`.
Connections and the repository come from the form. Environment variables of the Airflow processes change what it is
filled in with: these, and the others that `pg_s3_backup` and `pg_s3_restore` list, except their schedules and
`PG_S3_RESTORE_…`. A restore connects to the target alone; without a URI, the source names the database.

| variable                   | default                 | meaning                                             |
|----------------------------|-------------------------|-----------------------------------------------------|
| `PG_S3_SOURCE_CONN_ID`     | `postgres_default`      | the server to back up                               |
| `PG_S3_TARGET_CONN_ID`     |                         | the server to restore into; a restore needs it      |
| `PG_S3_REPOSITORY`         | `s3://backups/postgres` | where backups are stored                            |
| `PG_S3_AWS_CONN_ID`        | `aws_default`           | the S3 account                                      |
"""

from typing import Any

from airflow.sdk import DAG, Asset, Param, task

from airflow_pg_s3 import form_fields
from airflow_pg_s3.form_fields import RESTORE
from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator


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
        "mode": Param(
            "backup",
            type="string",
            enum=["backup", "restore"],
            title="What to do",
            values_display={"backup": "back up", "restore": "restore"},
        ),
        "repository": form_fields.repository(),
        "aws_conn_id": form_fields.aws_conn_id(),
        "source_conn_id": form_fields.source_conn_id(),
        "database": form_fields.database("to back up, or whose latest backup is restored"),
        "jobs": form_fields.jobs(),
        **form_fields.stored(),
        "backup": Param(
            "",
            type=["string", "null"],
            pattern="^(s3://[^/]+/.+)?$",
            title="Backup",
            description="s3:// URI of the backup to restore; empty: the latest one of the database",
            section=RESTORE,
        ),
        "verified_only": form_fields.verified_only(section=RESTORE),
        "before": form_fields.before(section=RESTORE),
        "age_identity_conn_id": form_fields.identity_conn_id(section=RESTORE),
        "target_conn_id": form_fields.target_conn_id(section=RESTORE),
        "target_database": form_fields.target_database(section=RESTORE),
        "if_exists": form_fields.if_exists(section=RESTORE),
        "allow_partial": form_fields.allow_partial(section=RESTORE),
        **form_fields.part(),
        "pg_restore_options": Param(
            [],
            type=["array", "null"],
            items={"type": "string", "pattern": "^-"},
            title="Options of pg_restore",
            description="Further options, one per line, such as --no-comments; none that selects",
            section=form_fields.PART,
        ),
        **form_fields.rights(),
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
        age_recipients="{{ params.age_recipients or [] }}",
        labels="{{ params.labels or {} }}",
        full="{{ params.full }}",
        s3_extra_args=form_fields.s3_extra_args(),
        pool=form_fields.pool(),
        execution_timeout=form_fields.time_limit(),
        outlets=[Asset(form_fields.default_repository(), group="pg_s3")],
    )
    latest = PgS3ListBackupsOperator(
        task_id="latest",
        repository="{{ params.repository | tojson }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ (params.database or database_of(params.source_conn_id)) | tojson }}",
        verified_only="{{ params.verified_only }}",
        before="{{ params.before | tojson if params.before else none }}",
        limit=1,
        s3_extra_args=form_fields.s3_extra_args(),
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
        schemas="{{ params.schemas or none }}",
        data_only="{{ params.data_only }}",
        pg_restore_options="{{ params.pg_restore_options or [] }}",
        no_owner="{{ params.no_owner }}",
        no_privileges="{{ params.no_privileges }}",
        restore_globals="{{ params.restore_globals }}",
        managed_service="{{ params.managed_service }}",
        age_identity_conn_id="{{ (params.age_identity_conn_id or '') | tojson }}",
        s3_extra_args=form_fields.s3_extra_args(),
        pool=form_fields.pool(),
        execution_timeout=form_fields.time_limit(),
        trigger_rule="none_failed_min_one_success",  # `latest` is skipped when a URI is given
    )
    choose() >> [backup, latest, restore]
    latest >> restore
