"""Airflow connections, translated into what the core takes."""
