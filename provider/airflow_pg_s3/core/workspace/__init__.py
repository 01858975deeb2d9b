"""The worker: a private folder, client processes that never outlive their run, room on the disk.

``workspace``
    The folder of one run, and what must end with it.
``janitor``
    The process beside it that ends client programs and removes folders when the worker has died.
``file_lease``
    File leases, which tell when a writer has closed a file.
``pipes``
    Pipes with larger buffers.
``resources``
    What the machine may run out of: disk, memory, descriptors.
"""
