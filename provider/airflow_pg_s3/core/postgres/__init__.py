"""PostgreSQL: sessions, client programs, archives.

``connection``
    A database's address; how our sessions and client programs connect to it, with no password in argv.
``pooler``, ``login_refusals``, ``libpq_keywords``
    Refuses transaction poolers; knows refusals that no retry can change; refuses keywords unknown to a program's
    libpq.
``heartbeat``
    Pings sessions that idle for hours.
``client_versions``, ``pip_binaries``
    The installed client programs, their versions, and the choice of one; those that pip has installed.
``choose_pg_dump``
    Chooses a pg_dump that leaves out the server's internal column options.
``client_program``, ``stdin_feeder``
    Runs a client program; feeds a stream to its standard input.
``client_options``
    The options that users may give to pg_dump and pg_restore.
``server``
    Version, locale, clock and extensions of a server.
``databases``, ``database_settings``, ``subscriptions``
    Names, creates and drops databases; their settings; subscriptions, and their slots on other servers.
``encodings``, ``sql_text``
    Encodings of names; splits SQL text into statements and tokens.
``errors``, ``redaction``
    Translates the server's errors into ours; hides rows and secrets in messages.
``archive``
    Reads pg_dump's archives.
"""
