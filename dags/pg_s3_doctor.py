"""Say what would fail in a backup, before the first night: trigger this DAG, and read the log of its task.

It examines the server, the rights, the client programs, S3 and the worker, and says what to do. It changes
nothing: an object is stored and deleted again. Its defaults come from environment variables, which `pg_s3_backup`
lists.
"""

from airflow.sdk import DAG

from airflow_pg_s3 import form_fields
from airflow_pg_s3.hooks.connections import database_of
from airflow_pg_s3.operators.doctor import PgS3DoctorOperator

with DAG(
    dag_id="pg_s3_doctor",
    description="Say what would fail in a PostgreSQL backup",
    doc_md=__doc__,
    user_defined_macros={"database_of": database_of},
    schedule=None,
    tags=["pg_s3", "monitoring"],
    params={
        "repository": form_fields.repository(),
        "aws_conn_id": form_fields.aws_conn_id(),
        "postgres_conn_id": form_fields.source_conn_id(),
        "database": form_fields.database("to back up"),
        "jobs": form_fields.jobs(),
    },
) as dag:
    PgS3DoctorOperator(
        task_id="examine",
        repository="{{ params.repository }}",
        aws_conn_id="{{ params.aws_conn_id }}",
        postgres_conn_id="{{ params.postgres_conn_id }}",
        database="{{ params.database or database_of(params.postgres_conn_id) }}",
        jobs="{{ params.jobs }}",
        s3_extra_args=form_fields.s3_extra_args(),
    )
