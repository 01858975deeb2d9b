"""The backup.

``backup``
    The verb, from the request to the commit.
``request``
    What users ask for.
``dump``, ``spool``
    pg_dump at work, and the folder that it writes to, which never grows over its limit.
``dump_watch``, ``estimate``
    What pg_dump is at, and how much is ahead.
``standby``
    What old standbys get wrong.
``archive_uploader``
    Members on their way to S3, while they are written.
``manifest_builder``, ``staged_backup``
    The manifest; all that becomes a backup at once, or nothing.
``advisory_lock``, ``abandoned``
    The lock that says that a backup is alive; what killed backups have left.
"""
