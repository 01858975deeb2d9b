"""What is stored on S3: docs/format.md in code.

``repository``
    Keys: manifests, objects, marks of backups that have begun.
``backup_id``, ``listing``, ``catalog``, ``freshness``
    Backup ids; backups listed, newest first; with their details; how old the newest is.
``neighbours``
    What lies above and below a prefix that holds no backups.
``backup_name``, ``backup_table``
    ``latest``, a time, the beginning of an id: names that stand for a backup; a list of backups as people see it.
``manifest``, ``members``, ``verification_record``
    The record of a backup; the list of its members with their chunks; the records of its verifications.
``run_trailer``
    The list of its chunks that an object ends with.
``thaw``
    Asks S3 for objects in an archive storage class.
``codec``, ``pack``
    Bytes as they are stored: compressed, encrypted; small members together.
``digest``, ``member_verifier``, ``chunk_reader``
    Computes a member's digest when it is written; checks it when it is read; reads chunks, and checks each.
``removal``, ``sweep_mark``, ``presence``
    Deletes manifests, and objects; keeps those who delete and those who make backups out of each other's way.
"""
