"""The copy: a backup in a second repository.

``copy``
    The verb: brings what the other side lacks, the manifest last.
``transfer``
    How an object comes there: by S3 itself, or through the worker, which checks it on the way.
"""
