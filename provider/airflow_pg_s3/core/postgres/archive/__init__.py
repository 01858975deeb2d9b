"""Reads pg_dump's archives.

``toc``
    The table of contents, ``toc.dat``: all fields of all entries.
``table_data``
    The table whose rows a file holds, and the COPY command for them.
``definitions``, ``schema_script``
    The commands that pg_restore generates from entries; the schema as one script.
``requirements``
    What an archive needs of a server: roles, extensions, tablespaces, collations.
``use_list``
    Lists of entries for ``pg_restore --use-list``.
"""
