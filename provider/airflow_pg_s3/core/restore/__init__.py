"""The restore.

``restore``
    The verb: opens a source and a target, and lets the source's plan fill the target.
``request``, ``context``
    What users ask for; what the steps of one restore share.
``source``, ``backup_source``, ``external``
    What a source offers; a backup of ours; archives that other tools have made.
``target``, ``database_swap``
    The database to restore into; one that is restored beside the live one and takes its place.
``opened_archive``, ``selection``
    An archive that is about to be restored; which of its entries the user wants.
``archive_restore``, ``one_transaction``
    The steps of an archive's restore and their order; all of them in one transaction.
``preflight``, ``globals``, ``extensions``
    Reports all that the target lacks before anything is touched; creates roles and tablespaces.
``definer``, ``managed_service``, ``ownership``
    Creates definitions; as a role that is no superuser; owners and privileges.
``clean``, ``existing_objects``, ``links_to_other_tables``
    Drops what is there already; what of it stays; what ties restored tables to others.
``download``, ``table_rows``
    Without a server: the archive as a folder; the rows of one table.
``load``
    Definitions by pg_restore, rows by COPY.
"""
