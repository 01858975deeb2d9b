"""The verification.

``verify``
    The verb: check, judge, record.
``request``
    What users ask for.
``object_check``
    ``level="checksum"``: every stored byte.
``restore_test``, ``scratch_database``, ``throwaway_server``
    ``level="restore"``: restored into a database of its own, if need be on a server of its own.
``comparison``
    Each row, sequence, large object and definition compared with the backup.
``user_checks``
    The user's own queries.
``findings``, ``outcome``
    What was found, and what follows: verified, failed, or could not verify.
"""
