"""What is kept, and what is deleted.

``policy``
    The rules, and which backups they keep.
``inventory``, ``prune_plan``
    What there is; what becomes of it.
``prune``, ``facts``
    The verb; what it has done, for programs.
``orphans``
    Finds what killed backups and prunes left behind.
"""
