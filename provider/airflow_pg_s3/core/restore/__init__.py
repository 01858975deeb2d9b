"""The restore.

``restore``
    The verb for our own backups; ``external`` has the one for other tools' archives.
``request``, ``selection``
    What users ask for; which entries of an archive that is.
``preflight``, ``globals``
    Reports all that the target lacks before anything is touched; creates roles and tablespaces.
``target``, ``database_swap``
    The database to restore into; one that is restored beside the live one and takes its place.
``clean``, ``one_transaction``
    Drops what is there already; drops and restores in one transaction.
``managed_service``, ``ownership``
    Restores by a role that is no superuser; owners and privileges.
``extensions``, ``existing_objects``
    Finds extensions that could not be created; what of the target is left as it is.
``links_to_other_tables``
    What ties restored tables to others: foreign keys, publications, partitions.
``load``
    Definitions by pg_restore, rows by COPY.
"""
