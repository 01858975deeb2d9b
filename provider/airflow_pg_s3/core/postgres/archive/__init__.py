"""Reads pg_dump's archives.

``toc``
    Its table of contents, ``toc.dat``: all fields of all entries.
``table_data``
    Which file holds which table's rows, and the COPY command that they are for.
``definitions``, ``schema_script``
    The commands that pg_restore generates from entries; a whole script of them.
``requirements``
    What an archive needs of a server: roles, extensions, tablespaces, collations.
``use_list``
    Lists of entries for ``pg_restore --use-list``.
"""
