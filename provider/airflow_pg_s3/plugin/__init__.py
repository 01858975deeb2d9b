"""The Backups page in Airflow's navigation: what is in the named repositories. docs/backups-page.md shows it.

``plugin``
    What Airflow loads at its start: a few names, and an app that imports the rest with its first request.
``api``
    The routes: who may see them, and what an error becomes.
``answers``
    Keeps what S3 has said for some seconds, and waits for it no longer than a person would.
``overview``
    What the page shows: databases, backups, one backup.
``recovery``
    Commands that restore a backup without Airflow; ``recovery.sh`` has those of docs/recovery.md.
``static/``
    The page: HTML, CSS and JavaScript as the browser gets them.
"""
