"""Speaking S3.

``requests``
    What every request shares: URIs, errors as sentences, listings, writes that replace nothing.
``upload``, ``download``
    Objects as streams of any size.
``deletion``
    Objects deleted, many at once where a store takes that.
``object_lock``
    Whether a bucket keeps what is deleted.
``extra_args``
    Arguments of users for every request: keys of SSE-C, who pays.
``parallel``
    A few requests at a time.
"""
