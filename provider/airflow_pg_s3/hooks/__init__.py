"""Airflow connections as what core takes."""
