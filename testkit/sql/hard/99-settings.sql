-- Settings of the database that change how values are printed and read: a backup must not depend on them.
SELECT format('ALTER DATABASE %I SET %s', current_database(), setting) FROM unnest(ARRAY[
    'datestyle = ''SQL, DMY''', 'intervalstyle = sql_standard', 'timezone = ''Asia/Kathmandu''', 'bytea_output = escape',
    'extra_float_digits = -10', 'standard_conforming_strings = off', 'escape_string_warning = off', 'statement_timeout = ''10min''',
    'search_path = views, types, "schéma ☃"', 'quote_all_identifiers = on', 'default_toast_compression = pglz']) AS setting \gexec
