"""Definitions by pg_restore, rows by COPY straight from S3.

``load``, ``plan``
    A restore in the order that the plan gives.
``lanes``
    Runs a fixed number of tasks at a time, the largest first.
``copy_session``
    A session that fills tables and large objects; a COPY ends here.
``archive_folder``
    The archive on S3 as pg_restore and these sessions see it.
``pg_restore``, ``error_parser``, ``last_login``
    Runs pg_restore; judges its errors; ignores a failed last login.
"""
