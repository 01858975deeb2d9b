"""Airflow's metadata database: backed up by a DAG, dropped, restored by pg-s3 alone; and Airflow starts again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.airflow_standalone import Standalone, wait_until
from testkit.postgres import Cluster
from testkit.s3 import REGION, Moto

BUCKET = "airflow-metadata"
DATABASE = "airflow"
FERNET_KEY = "cFRLV0hnbDdBZGtHSGtVb3l3V1ZhRlVhZ0FGSE9qSVc="
PG_S3 = Path(sys.executable).with_name("pg-s3")


@pytest.fixture
def settings(pg18: Cluster, moto: Moto) -> dict[str, str]:
    """Airflow on PostgreSQL, with a backup of that very database at once."""
    moto.create_bucket(BUCKET)
    where = f"{pg18.user}:{pg18.password}@{pg18.host}:{pg18.port}/{DATABASE}"
    return {
        "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{where}",
        "AIRFLOW__PG_S3__CLIENT_PATH": str(pg18.pg_bin),
        "AIRFLOW_CONN_POSTGRES_DEFAULT": pg18.airflow_connection(DATABASE),
        "AIRFLOW_CONN_AWS_DEFAULT": moto.airflow_connection(),
        "PG_S3_BACKUP_SCHEDULE": "",
        "PG_S3_REPOSITORY": f"s3://{BUCKET}/airflow",
    }


def test_it_is_restored_while_airflow_is_down_and_airflow_starts_again(
    pg18: Cluster, moto: Moto, settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    pg18.create_database(DATABASE)

    def started() -> Standalone:
        airflow = Standalone(tmp_path_factory.mktemp("airflow"), settings)
        wait_until(airflow.is_up, "airflow standalone is up", seconds=300)
        return airflow

    airflow = started()
    try:
        airflow.call("POST", "/variables", {"key": "kept", "value": "a secret"})
        wait_until(lambda: "pg_s3_backup" in str(airflow.call("GET", "/dags")), "the DAG is there")
        run_id = airflow.trigger("pg_s3_backup")
        ended = airflow.end_of("pg_s3_backup", run_id)
        assert ended == "success", airflow.task_log("pg_s3_backup", run_id, "backup")
    finally:
        airflow.stop()
        print(airflow.log_tail())  # shown when something failed
    pg18.drop_database(DATABASE)

    done = subprocess.run(
        [
            PG_S3, "restore", f"s3://{BUCKET}/airflow/{DATABASE}/latest",
            f"postgresql://{pg18.user}@{pg18.host}:{pg18.port}/{DATABASE}", "--client-path", str(pg18.pg_bin),
        ],
        env={
            "AWS_ACCESS_KEY_ID": moto.access_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": moto.endpoint_url,
            "AWS_SECRET_ACCESS_KEY": moto.secret_key,
            "HOME": str(tmp_path_factory.mktemp("home")),
            "PATH": os.environ["PATH"],
            "PGPASSWORD": pg18.password,
        },
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    airflow = started()
    try:
        assert airflow.call("GET", "/variables/kept")["value"] == "a secret"
        # As it was while it was being dumped; Airflow sees to it that it ends.
        (run,) = airflow.runs("pg_s3_backup")
        assert run["dag_run_id"] == run_id
        again = airflow.trigger("pg_s3_backup")
        assert again in [run["dag_run_id"] for run in airflow.runs("pg_s3_backup")]
    finally:
        airflow.stop()
        print(airflow.log_tail())
        pg18.drop_database(DATABASE)
