"""Talking to PostgreSQL and running its client programs.

``connection``
    Where a database is, and how our sessions and client programs connect, with no password in argv.
``pooler``, ``login_refusals``, ``libpq_keywords``
    Transaction poolers; refusals that no retry can mend; keywords that a program's libpq does not know.
``heartbeat``
    Pings for sessions that idle for hours.
``client_tools``
    Which client programs are installed, of which version, and which fit.
``choose_pg_dump``
    Chooses a pg_dump that leaves out the server's own options of columns.
``client_program``, ``stdin_feeder``
    Runs a client program; feeds a stream to its standard input.
``client_options``
    Which options users may give to pg_dump and pg_restore.
``server``
    What a server says of itself.
``databases``, ``database_settings``, ``subscriptions``
    Creates, names and drops databases; their settings; subscriptions, whose slots on other servers outlive them.
``encodings``, ``sql_text``
    Encodings of names; how SQL text is split.
``errors``, ``redaction``
    Turns the server's errors into ours; hides rows and secrets.
``archive``
    Reads pg_dump's archives.
"""
