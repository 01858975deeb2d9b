"""Names that have moved between versions of Airflow, for tests that run with each of them (`make test-matrix`)."""

import pytest
from airflow import __version__

VERSION = tuple(int(number) for number in __version__.split(".")[:2])

if VERSION >= (3, 2):
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.sdk.exceptions import ParamValidationError
    from airflow.serialization.serialized_objects import DagSerialization

    if VERSION == (3, 2):  # which raises it so, with the same message, when a DAG run is made
        ParamValidationError = ValueError
else:
    from airflow.exceptions import ParamValidationError
    from airflow.models.dagbag import DagBag
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

    if VERSION == (3, 1):
        from airflow.models.dagbag import sync_bag_to_db
    else:

        def sync_bag_to_db(bag: DagBag, bundle_name: str, bundle_version: str | None) -> None:
            for dag in bag.dags.values():  # a DAG that comes from no file has none
                dag.relative_fileloc = dag.relative_fileloc or "tests"
            bag.sync_to_db(bundle_name, bundle_version)


__all__ = ["VERSION", "DagBag", "DagSerialization", "ParamValidationError", "since", "sync_bag_to_db"]


def since(major: int, minor: int, what: str) -> pytest.MarkDecorator:
    """Skip a test with an older Airflow, which lacks what the test is about."""
    return pytest.mark.skipif(
        (major, minor) > VERSION, reason=f"Airflow {__version__} has no {what}; {major}.{minor} has"
    )
