"""Restores of archives made by other tools.

``source``
    Opens an archive, and chooses one of the two sources below.
``archive_source``
    An archive that pg_restore restores.
``plain_source``, ``plain_script``, ``psql``
    A plain dump; the script in it; the psql that replays it.
``detect``, ``decompress``, ``untar``
    Detects a stream's format; gzip and zstd around it; a directory archive packed with tar.
``completeness``
    Checks a stream's end.
``contents``
    Reads an archive's table of contents, and what it records of the source.
"""
