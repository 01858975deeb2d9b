"""The worker: a private folder, client processes that never outlive their run, free disk space.

``workspace``
    The folder of one run, and the processes that must end with it.
``janitor``
    A separate process that kills client programs and removes the folder when the task has died.
``file_lease``
    File leases, which show when a writer has closed a file.
``pipes``
    Pipes with larger buffers.
``resources``
    Advice if the machine runs out of disk space, memory or descriptors.
"""
