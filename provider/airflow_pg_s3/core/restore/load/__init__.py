"""Definitions by pg_restore, rows by COPY straight from S3.

``load``, ``plan``
    The steps of the load, in the plan's order; the plan.
``lanes``
    A fixed number of threads that run tasks, the largest first.
``copy_session``
    A session that fills tables and large objects; ends each COPY.
``archive_folder``
    The archive on S3, as files for pg_restore and as streams for these sessions.
``pg_restore``, ``error_parser``, ``last_login``
    Runs pg_restore; decides which of its errors count; ignores a failed last login.
"""
