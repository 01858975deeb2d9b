"""``airflow pg-s3``: the commands of ``pg-s3``, with Airflow's connections.

``definition``
    What every start of ``airflow`` imports.
``command``
    Runs a command of `airflow_pg_s3.cli` with connections out of `airflow_pg_s3.hooks`, which know nothing of each
    other.
"""
