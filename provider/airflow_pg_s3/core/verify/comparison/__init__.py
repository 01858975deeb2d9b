"""A restored database compared with its backup; the source is never asked.

``compare``, ``workers``
    All of it, in parallel.
``tables``, ``row_digest``, ``copy_reader``
    Rows, as COPY writes them.
``table_catalog``, ``schema_reader``, ``schema_diff``, ``sequences_and_extensions``
    Tables, definitions, sequences, extensions.
``large_objects``
    Large objects.
"""
