"""What the core takes, out of Airflow: `connections`, `repositories` by name; and the hook, `pg_s3`."""
