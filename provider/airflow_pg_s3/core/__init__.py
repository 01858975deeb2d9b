"""The backup engine. Knows PostgreSQL and S3, and nothing of Airflow.

Each package may import those below it, never one above (import-linter holds that in ``make lint``)::

    verify                  prove that a backup restores, and record it
    restore                 bring a backup, or another tool's archive, back into a database
    backup    retention     make a backup; decide what is kept, and delete the rest
    repository              what lies on S3: docs/format.md in code
    postgres  s3            speak to PostgreSQL, its programs and its archives; speak to S3
    workspace               the worker: a private folder, processes, disk
    record reporting errors search_path

Each verb is in the file of its name: `backup.backup.back_up`, `restore.restore.restore`, `verify.verify.verify`,
`retention.prune.prune`.
"""
