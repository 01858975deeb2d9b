"""The examination: what would fail in a backup, before the first night.

``doctor``
    The verb, and what is asked for.
``findings``
    What was found, each with what to do.
``postgres``, ``repository``, ``machine``
    Looks at the server and the client programs; at S3; at this machine's disk.
"""
