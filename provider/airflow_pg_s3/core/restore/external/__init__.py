"""Restores of archives that other tools have made.

``source``
    Opens an archive, and tells which of the two it is.
``archive_source``
    Archives that pg_restore restores.
``plain_source``, ``plain_script``, ``psql``
    Plain dumps; the script in them; the psql that replays it.
``detect``, ``decompress``, ``untar``
    Which format a stream is in; gzip and zstd around it; a directory in a tar.
``completeness``
    How a stream ends if it is whole.
``contents``
    What an archive says of its source.
"""
