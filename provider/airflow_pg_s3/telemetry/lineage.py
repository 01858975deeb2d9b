"""Datasets for OpenLineage: a backup leads from a database to S3, a restore from S3 to a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.s3.requests import parse_uri

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


class DatasetName(NamedTuple):
    """A dataset, by OpenLineage's conventions for names."""

    namespace: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Data that a task has moved.

    :param rows: None for another tool's archive, whose rows nobody has counted.
    """

    source: DatasetName
    target: DatasetName
    rows: int | None
    raw_bytes: int


def database_dataset(params: ConnectionParameters) -> DatasetName:
    """Return the name of a database."""
    port = params.keywords.get("port") or "5432"
    return DatasetName(f"postgres://{params.host}:{port}", params.database)


def repository_dataset(uri: str) -> DatasetName:
    """Return the name of the folder that holds a database's backups: a name for each backup would be no lineage.

    :param uri: of a manifest, or of another tool's archive.
    """
    bucket, key = parse_uri(uri, parameter="backup")
    return DatasetName(f"s3://{bucket}", key.rpartition("/")[0] or "/")


def lineage(movement: Movement | None) -> OperatorLineage[Any, Any]:
    """Return the facets of a task, empty if it has moved nothing; only called where OpenLineage is installed."""
    from airflow.providers.common.compat.openlineage import facet
    from airflow.providers.openlineage.extractors import OperatorLineage

    if movement is None:
        return OperatorLineage()
    statistics: Any = facet.OutputStatisticsOutputDatasetFacet(rowCount=movement.rows, size=movement.raw_bytes)
    return OperatorLineage(
        inputs=[facet.Dataset(*movement.source)],
        outputs=[facet.OutputDataset(*movement.target, outputFacets={"outputStatistics": statistics})],
    )
