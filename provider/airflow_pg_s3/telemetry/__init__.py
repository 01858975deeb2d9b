"""What the rest of Airflow sees of a task.

``stages``        groups of lines in the task's log
``console_link``  the button that leads to the backup on Amazon S3
``lineage``       datasets for OpenLineage
``metrics``       gauges for StatsD and OpenTelemetry
"""
