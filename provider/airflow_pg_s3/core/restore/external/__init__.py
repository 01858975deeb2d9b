"""Restores of archives that other tools have made.

``restore``
    The verb.
``detect``, ``decompress``, ``untar``
    Which format a stream is in; gzip and zstd around it; a directory in a tar.
``completeness``
    How a stream ends if it is whole.
``contents``
    What an archive says of its source.
``plain_script``, ``psql``
    Plain dumps, and the psql that replays them.
"""
