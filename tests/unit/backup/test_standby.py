"""Which servers export snapshots rightly while they are standbys."""

import pytest

from airflow_pg_s3.core.backup.standby import has_right_snapshots


@pytest.mark.parametrize("version", [140025, 150020, 150021, 160016, 170012, 180007, 190000])
def test_since_november_2026_they_do(version: int) -> None:
    assert has_right_snapshots(version)


@pytest.mark.parametrize("version", [130023, 140024, 150019, 160015, 170011, 180006])
def test_before_they_do_not(version: int) -> None:
    assert not has_right_snapshots(version)
