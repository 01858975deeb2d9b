"""What lies on S3: docs/format.md in code.

``repository``
    Keys: manifests, objects, marks of backups that have begun.
``backup_id``, ``listing``, ``catalog``, ``freshness``
    Backups by their ids; found, newest first; as a table; how old the newest is.
``manifest``, ``verification_record``
    The record of a backup, and those of its verifications.
``thaw``
    What lies in an archive storage class, asked for.
``codec``, ``pack``
    Bytes as they are stored: compressed, encrypted; small members together.
``digest``, ``member_verifier``
    A member's digest when it is written; the proof when it is read.
``removal``
    Backups deleted, the manifest first.
"""
