"""The comparison of a restored database with its backup; the source is never contacted.

``compare``, ``workers``
    The whole comparison; its pieces, in parallel.
``tables``, ``row_digest``, ``copy_reader``
    Rows, as COPY text.
``table_catalog``, ``schema_reader``, ``schema_diff``, ``sequences_and_extensions``
    Tables, definitions, sequences, extensions.
``large_objects``
    Large objects.
"""
