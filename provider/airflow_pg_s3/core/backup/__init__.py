"""The backup.

``backup``
    The verb, from the request to the commit.
``request``
    What users ask for.
``dump_plan``
    What is decided before anything is touched: the server, the programs, their options.
``pg_dump``, ``pg_dumpall``, ``spool``
    Runs pg_dump, and pg_dumpall for the globals; the folder that they write to, kept within a limit.
``dump_watch``, ``estimate``
    What pg_dump is doing, and how much is left.
``standby``
    Standbys whose exported snapshots are wrong.
``archive_uploader``
    Uploads the archive's members while pg_dump still writes them.
``chunk_cutter``, ``chunk_store``, ``known_chunks``
    Cuts large members into chunks; stores each of them once; where they lie.
``earlier_chunks``, ``abandoned_chunks``
    Finds those that earlier backups have stored; copies those of a backup that was killed.
``manifest_builder``, ``staged_backup``
    Builds the manifest; commits the backup, all of it or nothing.
``advisory_lock``, ``abandoned``
    What marks a running backup on the server; removes what killed ones left.
"""
