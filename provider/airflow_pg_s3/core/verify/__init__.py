"""The verification.

``verify``
    The verb: checks the backup, decides the outcome, records it.
``request``
    The user's request.
``object_check``
    ``level="checksum"``: reads every stored byte.
``restore_test``, ``scratch_database``, ``throwaway_server``
    ``level="restore"``: restores into a scratch database, on a throwaway server if none is given.
``comparison``
    Compares each row, sequence, large object and definition with the backup.
``user_checks``
    The user's own queries.
``findings``, ``outcome``
    What was found; the outcome: verified, failed, or could not verify.
"""
