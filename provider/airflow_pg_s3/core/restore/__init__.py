"""The restore.

``restore``
    The verb: opens a source and a target, and fills the target according to the source's plan.
``request``, ``context``
    The user's request; the state that the steps of one restore share.
``source``, ``backup_source``, ``external``
    The interface of a source; a backup of ours; archives made by other tools.
``target``, ``replace_target``
    The database to restore into; a new one, restored beside the live one, that takes its place.
``opened_archive``, ``selection``
    An archive that is about to be restored; the choice of its entries.
``restore_steps``, ``one_transaction``
    The steps of an archive's restore and their order; all of them in one transaction.
``preflight``, ``globals``, ``extensions``
    Reports everything that the target lacks before anything is touched; creates roles and tablespaces.
``definer``, ``managed_service``, ``ownership``
    Creates definitions; does so as a role that is not a superuser; sets owners and privileges.
``clean``, ``existing_objects``, ``links_to_other_tables``
    Drops what exists already; keeps some of it; links restored tables to others.
``download``, ``table_rows``
    Without a server: the archive as a folder; the rows of one table.
``load``
    Definitions by pg_restore, rows by COPY.
"""
