"""Talking to S3.

``requests``
    What every request shares: URIs, listings, writes that replace nothing.
``errors``
    What S3's refusals mean, in one sentence each.
``upload``, ``download``
    Stores objects, a few at a time; reads them, fetched ahead in ranges.
``deletion``
    Deletes objects, many in a request where the store allows it.
``object_lock``
    Whether a bucket keeps what is deleted.
``extra_args``
    The user's arguments for every request: SSE-C keys, requester pays.
``parallel``
    A few requests at a time.
"""
