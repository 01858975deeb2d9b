"""The snapshot that a backup shares with pg_dump: it can be stopped while it waits for one."""

import threading

import psycopg
import pytest

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.postgres import server
from airflow_pg_s3.core.postgres.connection import parameters
from testkit.postgres import Cluster
from tests.support.waiting import wait_until

WAITS = "select count(*) from pg_stat_activity where wait_event = 'SafeSnapshot'"


def test_a_backup_that_waits_for_a_safe_snapshot_can_be_stopped(pg16: Cluster) -> None:
    source = parameters(database="postgres", keywords=pg16.keywords)
    cancel = threading.Event()
    with psycopg.connect(pg16.dsn()) as writer, source.connect() as connection:
        writer.execute("begin isolation level serializable")
        writer.execute("create table not_there_for_long (i int)")
        facts = server.inspect(connection, source)
        stopper = threading.Thread(target=lambda: (wait_until(lambda: int(pg16.psql(WAITS))), cancel.set()))
        stopper.start()
        with (
            pytest.raises(Cancelled, match="while it waited for a snapshot"),
            server.shared_snapshot(connection, facts, given=None, is_serializable=True, cancel=cancel),
        ):
            raise AssertionError
        stopper.join()
        writer.rollback()
