"""The provider's metadata, for Airflow's ``apache_airflow_provider`` entry point.

Every ``airflow`` command loads this module, so it imports nothing.
"""


def get_provider_info() -> dict[str, object]:
    """Return the provider's metadata in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-pg-s3",
        "name": "PostgreSQL backups on S3",
        "description": "Streams PostgreSQL databases to S3, restores them, and proves that the restore works.",
        "integrations": [
            {
                "integration-name": "PostgreSQL backups on S3",
                "tags": ["software"],
            }
        ],
        "operators": [
            {
                "integration-name": "PostgreSQL backups on S3",
                "python-modules": [
                    "airflow_pg_s3.operators.backup",
                    "airflow_pg_s3.operators.copy",
                    "airflow_pg_s3.operators.doctor",
                    "airflow_pg_s3.operators.list_backups",
                    "airflow_pg_s3.operators.prune",
                    "airflow_pg_s3.operators.restore",
                    "airflow_pg_s3.operators.verify",
                ],
            }
        ],
        "hooks": [
            {
                "integration-name": "PostgreSQL backups on S3",
                "python-modules": ["airflow_pg_s3.hooks.pg_s3"],
            }
        ],
        "sensors": [
            {
                "integration-name": "PostgreSQL backups on S3",
                "python-modules": ["airflow_pg_s3.sensors.freshness"],
            }
        ],
        "triggers": [
            {
                "integration-name": "PostgreSQL backups on S3",
                "python-modules": ["airflow_pg_s3.triggers.freshness"],
            }
        ],
        # Read by Airflow 3.2 and later.
        "cli": ["airflow_pg_s3.airflow_cli.definition.get_commands"],
        "extra-links": [
            "airflow_pg_s3.telemetry.links.BackupsPageLink",
            "airflow_pg_s3.telemetry.links.S3ConsoleLink",
        ],
        "config": {
            "pg_s3": {
                "description": "Where backups are, and settings of the worker machines.",
                "options": {
                    "client_path": {
                        "description": (
                            "Colon-separated directories searched for pg_dump and pg_restore before the "
                            "standard folders. A change takes effect when Airflow is started again."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/opt/postgresql-18/bin:/opt/postgresql-16/bin",
                        "default": "",
                    },
                    "repositories": {
                        "description": (
                            "Repositories that can be given by name: a JSON list of objects with name, uri and "
                            "perhaps aws_conn_id (default: aws_default; null: the machine's own credentials) and "
                            "max_age, which the Backups page compares the newest backups with."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": (
                            '[{"name": "production", "uri": "s3://my-backups/production", '
                            '"aws_conn_id": "backup_account"}]'
                        ),
                        "default": "",
                    },
                },
            }
        },
    }
