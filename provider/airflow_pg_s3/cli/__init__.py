"""The command line ``pg-s3``: what the operators do, without Airflow.

``main``, ``exit_code``
    Runs a command: its errors, and its exit code.
``parser``, ``options``
    The commands and their options. They import nothing of core, so that ``--help`` and completion are quick.
``commands``
    A module for each command, with a function ``run(arguments, session)``.
``session``
    What a command is given: connections, the log, where results go, whether to stop.
``connections``, ``libpq``
    Connections as the command line names them; what libpq takes from its environment and files.
``log``, ``output``, ``csv_text``
    Lines and bars on standard error; results on standard output; rows as CSV.
``wording``
    Core's messages in this program's words.
``stopping``
    Ctrl-C, and other signals that ask to stop.
"""
