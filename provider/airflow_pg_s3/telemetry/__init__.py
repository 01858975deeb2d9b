"""What the rest of Airflow sees of a task.

``stages``        groups of lines in the task's log
``links``         the buttons that lead to the backup
``lineage``       datasets for OpenLineage
``metrics``       gauges for StatsD and OpenTelemetry
"""
