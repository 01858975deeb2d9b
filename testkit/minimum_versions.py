"""Imports the package and its DAGs; `make floor` runs this with the oldest dependencies."""

import importlib
import os
import pkgutil
import sys
import tempfile
from pathlib import Path

DAGS = Path(__file__).parents[1] / "dags"


def main() -> str | None:
    """Import everything; return the errors, None if there are none."""
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
        import airflow

        import airflow_pg_s3
        from airflow_pg_s3.airflow_version import has_external_views

        for module in pkgutil.walk_packages(airflow_pg_s3.__path__, "airflow_pg_s3."):
            # Airflow 3.0, which has no place for the page, never imports its routes.
            if module.name != "airflow_pg_s3.plugin.api" or has_external_views(airflow.__version__):
                importlib.import_module(module.name)
        # Imported by name, as newer versions of Airflow have moved this class.
        bag = importlib.import_module("airflow.models.dagbag").DagBag(DAGS, include_examples=False)
        print(f"Airflow {airflow.__version__}: {', '.join(sorted(bag.dags))}")
        return "\n".join(f"{file}: {error}" for file, error in bag.import_errors.items()) or None


if __name__ == "__main__":
    sys.exit(main())
