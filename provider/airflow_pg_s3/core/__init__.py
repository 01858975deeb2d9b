"""The backup engine. Knows PostgreSQL and S3, and nothing of Airflow.

Each package may import those below it, never one above (``make lint`` enforces that, by import-linter)::

    doctor                  say what would fail in a backup, before it does
    verify                  prove that a backup restores, and record it
    restore                 bring a backup, or another tool's archive, back into a database
    backup copy retention   make a backup; copy it elsewhere; decide what is kept, and delete the rest
    repository              what is stored on S3: docs/format.md in code
    postgres  s3            talk to PostgreSQL, run its programs, read archives; talk to S3
    workspace               the worker: a private folder, processes, disk
    record reporting errors search_path documents

Each verb is in the file named after it: `backup.backup.back_up`, `restore.restore.restore`,
`verify.verify.verify`, `retention.prune.prune`, `copy.copy.copy`, `doctor.doctor.examine`.
"""
