"""What PostgreSQL's own regression suite leaves behind is read, comes back and is compared exactly."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.database_equality import compare_databases
from testkit.postgres import Cluster, newest_of_each_major
from tests.integration.conftest import only_on
from tests.integration.restore.test_round_trip import wrong_tables
from tests.integration.restore.test_toc import assert_read_as_by_pg_restore
from tests.integration.verify.test_comparison import compare_with  # noqa: F401
from tests.support.sampling import sample

# The suite is 15's: on newer servers some more of its tests fail, on older ones many.
SINCE_15 = [each for each in newest_of_each_major() if each.major >= 15]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(
    scope="module", params=sample(SINCE_15, 1, "regression suite"), ids=lambda installation: installation.version
)
def regression_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server of its own, with the database that PostgreSQL's regression suite leaves behind."""
    cache = os.environ.get("PG_S3_REGRESSION_CACHE")
    if not cache:
        pytest.skip("PG_S3_REGRESSION_CACHE names no folder for PostgreSQL's regression suite")
    from testkit.postgres_regression_suite import create_regression_database

    settings = {"allow_in_place_tablespaces": "on"}
    with Cluster(installation=request.param, settings=settings, initdb_options=["--locale=C"]) as cluster:
        create_regression_database(cluster, Path(cache))
        yield cluster


@only_on("moto")
def test_it_comes_back_exactly_and_is_found_equal(
    regression_cluster: Cluster,
    new_name,
    back_up,
    restore,
    manifest_of,
    compare_with,  # noqa: F811
):
    made = back_up(regression_cluster, "regression", jobs=4)
    assert made["tables"] > 500
    assert wrong_tables(manifest_of(made), regression_cluster, "regression") == []
    copy = new_name(regression_cluster, "copy")
    restore(regression_cluster, copy, backup=made["uri"], jobs=4)
    assert compare_databases(regression_cluster.dsn("regression"), regression_cluster.dsn(copy)) == []
    comparison = compare_with(made, regression_cluster, copy, jobs=4)
    assert comparison.differences == []
    assert comparison.warnings == []
    assert sum(table.rows_found for table in comparison.tables) == made["rows"]


def test_its_table_of_contents_is_read_as_by_pg_restore(regression_cluster: Cluster, tmp_path: Path) -> None:
    toc = assert_read_as_by_pg_restore(regression_cluster, "regression", tmp_path)
    assert len(toc.entries) > 2000
