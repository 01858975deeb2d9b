"""The restore.

``restore``
    The verb, for backups of ours; ``external`` has that for other tools' archives.
``request``, ``selection``
    What users ask for; which entries of an archive that is.
``preflight``, ``globals``
    What the target lacks, all of it, before anything is touched; roles and tablespaces to create.
``target``, ``database_swap``
    The database to restore into; one that is restored beside the live one and takes its place.
``clean``, ``one_transaction``
    What is there already, dropped; dropped and restored in one transaction.
``managed``, ``ownership``
    Restores by a role that is no superuser; owners and privileges.
``extensions``, ``existing_objects``
    Extensions that would not be created; what stays as the target has it.
``ties``
    What ties restored tables to others: foreign keys, publications, partitions.
``load``
    Definitions by pg_restore, rows by COPY.
"""
