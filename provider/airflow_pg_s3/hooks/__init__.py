"""What the core takes, out of Airflow: `connections` translates connections, `repositories` names."""
