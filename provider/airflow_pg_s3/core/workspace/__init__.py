"""The worker: a private folder, client processes that outlive nobody, room on the disk.

``workspace``
    The folder of one run, and what must end with it.
``janitor``
    The process beside it that ends client programs and removes folders when the worker has died.
``file_lease``
    Leases on files, that tell when a writer has closed one.
``pipes``
    Pipes with room for more.
``resources``
    What the machine may run out of: disk, memory, descriptors.
"""
