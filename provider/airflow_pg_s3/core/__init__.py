"""The backup engine. Knows PostgreSQL and S3, and nothing of Airflow.

Verbs (`backup`, `restore`) use nouns (`repository`, `manifest`, `spool`, `upload`, `download`, ...), never the
other way round.
"""
