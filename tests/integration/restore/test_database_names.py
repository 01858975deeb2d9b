"""An empty name means no database, and a backup of another database than the target's is told, or refused."""

import logging
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.operators.backup import PgS3BackupOperator
from airflow_pg_s3.operators.list_backups import PgS3ListBackupsOperator
from airflow_pg_s3.operators.prune import PgS3PruneOperator
from airflow_pg_s3.operators.restore import PgS3RestoreOperator
from airflow_pg_s3.sensors.freshness import PgS3BackupFreshnessSensor
from testkit.postgres import Cluster
from tests.integration.conftest import only_on

pytestmark = only_on("moto")


@pytest.mark.parametrize("name", ["", " ", "None"])
def test_an_empty_name_is_refused_wherever_one_database_is_meant(
    pg16: Cluster, connections, repository: str, new_database, back_up, leftovers, name: str
) -> None:
    database = new_database(pg16, "create table t (i int)")
    backup = back_up(pg16, database)
    connections.target(pg16, database)
    before = leftovers()
    source = {"postgres_conn_id": "pg_source", "aws_conn_id": "aws", "database": name}
    for operator in (
        PgS3BackupOperator(task_id="b", repository=repository, **source),
        PgS3RestoreOperator(task_id="r", backup=backup["uri"], if_exists="clean", **source),
        PgS3ListBackupsOperator(task_id="l", repository=repository, aws_conn_id="aws", database=name),
        PgS3PruneOperator(task_id="p", repository=repository, aws_conn_id="aws", database=name, keep_last=1),
        PgS3BackupFreshnessSensor(
            task_id="f", repository=repository, aws_conn_id="aws", database=name, max_age=timedelta(hours=1)
        ),
    ):
        with pytest.raises(AirflowFailException, match=f"database must be the name of a database, not '{name}'"):
            operator.execute({})
    assert leftovers() == before


def test_none_lists_the_backups_of_every_database(
    pg16: Cluster, connections, new_database, back_up, list_backups
) -> None:
    names = {new_database(pg16, "create table t (i int)", name=name) for name in ("one", "two")}
    for name in names:
        back_up(pg16, name)
    assert {row["database"] for row in list_backups(database=None)} == names


@pytest.mark.parametrize("form", ["ours", "custom"])
def test_a_backup_of_another_database_is_told_and_replaces_only_what_is_named(
    pg16: Cluster, small, put, new_database, back_up, restore, caplog, monkeypatch, form: str
) -> None:
    live = new_database(pg16, "create table precious as select 42 as answer")
    backup = back_up(pg16, small.name)["uri"] if form == "ours" else put(small.archive("custom"))
    source = small.name if form == "ours" else "small template"
    with pytest.raises(AirflowFailException, match=f"is a backup of the database '{source}', .*database='{live}'"):
        restore(pg16, live, backup=backup, database=None, if_exists="replace")
    assert pg16.psql("select answer from precious", live).strip() == "42"

    other = new_database(pg16)
    monkeypatch.setattr(PgS3RestoreOperator, "log", logging.getLogger("restore"))
    with caplog.at_level("INFO"):
        assert restore(pg16, other, backup=backup, database=None)["warnings"] == []
    told = f"no database was named, so the backup of '{source}' is restored into '{other}', the connection's own"
    assert told in caplog.messages
    assert restore(pg16, live, backup=backup, database=live, if_exists="replace")["warnings"] == []
    assert pg16.psql("select to_regclass('accounts') is not null", live).strip() == "t"


def test_a_database_is_replaced_by_its_own_backup_without_being_named(
    pg16: Cluster, new_database, back_up, restore
) -> None:
    live = new_database(pg16, "create table t as select 1 as i")
    backup = back_up(pg16, live)
    pg16.psql("delete from t", live)
    done = restore(pg16, live, backup=backup["uri"], database=None, if_exists="replace", keep_previous=False)
    assert (done["warnings"], pg16.psql("select i from t", live).strip()) == ([], "1")
