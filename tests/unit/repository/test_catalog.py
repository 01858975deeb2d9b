"""Backups in a list, with what their evidence says."""

import logging
from datetime import UTC, datetime, timedelta

from airflow_pg_s3.core.repository.catalog import Selection, select
from airflow_pg_s3.core.repository.repository import Repository
from tests.support.stored_backups import RESTORED, UNSURE, Shelf

NIGHT = datetime(2026, 11, 20, 3, tzinfo=UTC)


def test_a_later_try_that_could_not_verify_does_not_hide_what_has_proved_it(s3_client, bucket):
    shelf = Shelf(s3_client, f"s3://{bucket}/production")
    backup_id = shelf.put_backup("orders", NIGHT)
    shelf.put_evidence("orders", backup_id, UNSURE, RESTORED, at=NIGHT + timedelta(days=3))
    repository = Repository(s3_client, f"s3://{bucket}/production")
    (entry,) = select(repository, Selection(database="orders"), logging.getLogger("catalog"))
    assert entry.newest_verdict.outcome == "could not verify"
    age = NIGHT + timedelta(days=7)
    assert entry.state(age) == "verified 5 d ago (a later try could not verify)"
