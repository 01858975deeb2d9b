"""A prefix that holds no backups may have been mistyped: what lies above and below it is named."""

from datetime import UTC, datetime

import pytest

from airflow_pg_s3.core.repository.neighbours import holds_backups, no_backups
from airflow_pg_s3.core.repository.repository import Repository
from tests.support.stored_backups import Shelf


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "did you mean {bucket}/production?"),
        ("/prodution", "did you mean {bucket}/production?"),
        ("/production/orders", "write {bucket}/production, and name the database 'orders' by itself"),
        ("/elsewhere", "has one been made, and are bucket and prefix right?"),
    ],
)
def test_what_is_near_is_named(s3_client, bucket, typed, said):
    uri = f"s3://{bucket}"
    Shelf(s3_client, f"{uri}/production").put_backup("orders", datetime(2026, 11, 20, 3, tzinfo=UTC))
    assert holds_backups(Repository(s3_client, f"{uri}/production"))
    mistyped = Repository(s3_client, uri + typed)
    assert not holds_backups(mistyped)
    told = str(no_backups(mistyped))
    assert told.startswith(f"there are no backups below {uri}{typed}: ")
    assert told.endswith(said.format(bucket=uri))
