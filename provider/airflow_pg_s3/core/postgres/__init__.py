"""Speaking PostgreSQL and its client programs.

``connection``
    Where a database is, and how to connect: for sessions of ours, and for client programs.
``pooler``, ``refusals``, ``keywords``
    What is no server; refusals that no further try can mend; keywords that a program's libpq does not know.
``heartbeat``
    Pings for sessions that idle for hours.
``client_tools``
    Which client programs are installed, of which version, and which fit.
``client_program``, ``stdin_feeder``
    A client program at work; one that reads from a stream.
``client_options``
    Which options users may give to pg_dump and pg_restore.
``server``
    What a server says of itself.
``databases``, ``database_settings``, ``subscriptions``
    Databases created, named, commented, dropped; their settings; their subscriptions, which outlive them.
``column_options``, ``encodings``, ``sql_text``
    What PostgreSQL's text means: options of columns, encodings of names, commands.
``errors``, ``redaction``
    The server's errors as ours, without rows and secrets.
``archive``
    pg_dump's archives, read.
"""
