"""Talking to S3.

``requests``
    What every request shares: URIs, errors as sentences, listings, writes that replace nothing.
``upload``, ``download``
    Objects as streams of any size.
``deletion``
    Deletes objects, many in a request where the store allows it.
``object_lock``
    Whether a bucket keeps what is deleted.
``extra_args``
    The user's arguments for every request: SSE-C keys, requester pays.
``parallel``
    A few requests at a time.
"""
