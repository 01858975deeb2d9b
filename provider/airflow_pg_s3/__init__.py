"""Back PostgreSQL up to S3, restore it, and prove that the restore works: an Apache Airflow provider."""

__version__ = "0.1.0"
