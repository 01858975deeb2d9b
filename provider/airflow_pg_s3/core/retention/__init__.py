"""What is kept, and what is deleted.

``policy``
    The rules, and which backups they keep.
``inventory``, ``decisions``
    What there is; what becomes of it.
``prune``, ``facts``
    The verb; what it has done, for programs.
``sweep``, ``needed_runs``
    Deletes what deleted and killed backups have left, but for the runs that others refer to.
"""
