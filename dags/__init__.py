"""DAGs that are ready to use, set up by connections and environment variables. README.md says how to run them.

In the installed package, this folder is ``airflow_pg_s3.example_dags``.
"""
