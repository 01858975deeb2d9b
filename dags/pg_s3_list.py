"""List the backups of all repositories in one table: trigger this DAG, and read the log of its task.

The repositories are `PG_S3_REPOSITORY`, and one below it for each connection in `PG_S3_FLEET_SERVERS`, as
`pg_s3_fleet` makes them. Other defaults: `PG_S3_AWS_CONN_ID` (`aws_default`), `PG_S3_VERIFIED_ONLY` (`false`).
Without `PG_S3_REPOSITORY`, the only repository in `[pg_s3] repositories` is taken, with its connection.
"""

from airflow.sdk import DAG, Param

from airflow_pg_s3 import form_fields
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator

with DAG(
    dag_id="pg_s3_list",
    description="List PostgreSQL backups on S3",
    doc_md=__doc__,
    schedule=None,
    tags=["pg_s3", "monitoring"],
    # Lists reach the operator as such. Names go through tojson: the database 1_000 stays a name.
    render_template_as_native_obj=True,
    params={
        "repositories": Param(
            form_fields.all_repositories(),
            type="array",
            minItems=1,
            items={"type": "string", "minLength": 1},
            title="Repositories",
            description="s3://bucket/prefix, one per line",
        ),
        "aws_conn_id": form_fields.aws_conn_id(),
        "database": Param(
            "", type=["string", "null"], title="Database", description="List its backups only; empty: all"
        ),
        "verified_only": form_fields.verified_only(),
        "before": form_fields.before(),
        "limit": Param(
            100,
            type="integer",
            minimum=1,
            title="Limit",
            description="Number of backups of each repository, the newest ones",
        ),
    },
) as dag:
    PgS3ListBackupsOperator(
        task_id="list",
        repository="{{ params.repositories }}",
        aws_conn_id="{{ params.aws_conn_id | tojson }}",
        database="{{ params.database | tojson if params.database else none }}",
        verified_only="{{ params.verified_only }}",
        before="{{ params.before | tojson if params.before else none }}",
        limit="{{ params.limit }}",
        fail_if_empty=False,
        s3_extra_args=form_fields.s3_extra_args(),
    )
