"""Subscriptions: what is restored leaves the publisher alone, and never keeps a database from being dropped."""

from collections.abc import Iterator

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import ServerError
from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.dumps import dump
from testkit.postgres import Cluster
from tests.support.sampling import sample
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

DETACHED = "subscription news was restored without its slot production, which may serve the source"


@pytest.fixture(scope="module")
def publisher() -> Iterator[Cluster]:
    settings = {"wal_level": "logical", "max_wal_senders": 5, "max_replication_slots": 5}
    with Cluster(major=16, settings=settings) as cluster:
        cluster.psql("create table news (id int primary key); insert into news values (1);"
                     "create publication p for table news")  # fmt: skip
        yield cluster


@pytest.fixture
def source(pg16: Cluster, publisher: Cluster, new_database) -> Iterator[str]:
    """A database that receives what is published, over the slot `production`."""
    name = new_database(pg16, "create table news (id int primary key)", name="subscriber")
    uri = f"postgresql://{publisher.user}:{publisher.password}@{publisher.host}:{publisher.port}/postgres"
    pg16.psql(f"create subscription news connection '{uri}' publication p with (slot_name = production)", name)
    wait_until(lambda: pg16.psql("select id from news", name) == "1\n")
    yield name
    publisher.psql("delete from news where id > 1")
    # The slot stays until its last user has gone.
    drop_subscription(pg16, name)
    wait_until(lambda: slots(publisher) != [("production", True)])
    publisher.psql("select pg_drop_replication_slot(slot_name) from pg_replication_slots")


@pytest.fixture
def copies(pg16: Cluster, new_name) -> Iterator[object]:
    """() → a name for a database, whose subscriptions are gone before it is dropped."""
    named: list[str] = []

    def name_one() -> str:
        named.append(new_name(pg16, "copy"))
        return named[-1]

    yield name_one
    for name in databases(pg16):
        if name.startswith(tuple(named)):
            drop_subscription(pg16, name)
            pg16.drop_database(name)


def drop_subscription(cluster: Cluster, database: str) -> None:
    cluster.psql(
        "alter subscription news disable; alter subscription news set (slot_name = none); drop subscription news"
        if subscription(cluster, database) else "", database,
    )  # fmt: skip


def databases(cluster: Cluster) -> list[str]:
    return cluster.psql("select datname from pg_database").splitlines()


def subscription(cluster: Cluster, database: str) -> list[tuple]:
    with cluster.connect(database) as connection:
        return connection.execute(
            "select subname, subslotname, subenabled from pg_subscription join pg_database d on d.oid = subdbid"
            " where datname = current_database()"
        ).fetchall()


def slots(publisher: Cluster) -> list[tuple]:
    with publisher.connect() as connection:
        return connection.execute("select slot_name, active from pg_replication_slots").fetchall()


def still_receives(cluster: Cluster, source: str, publisher: Cluster) -> bool:
    publisher.psql("insert into news values (2)")
    wait_until(lambda: cluster.psql("select max(id) from news", source) == "2\n")
    return slots(publisher) == [("production", True)]


@pytest.mark.parametrize(
    "options",
    sample([{}, {"managed_service": True}, {"foreign": "custom"}, {"foreign": "plain"}], 2, "detached"),
    ids=str,
)
def test_a_restored_subscription_is_detached_and_can_be_cleaned_again_and_again(
    pg16: Cluster, publisher: Cluster, source: str, copies, back_up, put, restore, tmp_path, options: dict
) -> None:
    target, form = copies(), options.pop("foreign", None)
    uri = put(dump(pg16, source, form, tmp_path)) if form else back_up(pg16, source)["uri"]
    for if_exists in ("fail", "clean", "clean") if form != "plain" else ("fail",):
        done = restore(pg16, target, backup=uri, if_exists=if_exists, **options)
        assert len([warning for warning in done["warnings"] if warning.startswith(DETACHED)]) == 1
        assert subscription(pg16, target) == [("news", None, False)]
        assert pg16.psql("select id from news", target) == "1\n"
    assert still_receives(pg16, source, publisher)


@pytest.mark.parametrize("options", [{}, {"single_transaction": False}, {"managed_service": True}], ids=str)
def test_clean_drops_an_attached_subscription_and_not_its_slot(
    pg16: Cluster, publisher: Cluster, source: str, back_up, restore, options: dict
) -> None:
    backup = back_up(pg16, source)
    done = restore(pg16, source, backup=backup["uri"], if_exists="clean", **options)
    assert subscription(pg16, source) == [("news", None, False)]
    assert slots(publisher)[0][0] == "production"
    assert (
        "the target's subscription news is dropped, and its slot production stays on its publisher: drop it there "
        "if nothing uses it"
    ) in done["warnings"]


@pytest.mark.parametrize(
    "options", [{}, {"single_transaction": False}, {"managed_service": True}, {"foreign": "custom"}], ids=str
)
def test_clean_of_a_database_without_encoding_does_the_same(
    pg16: Cluster, new_database, back_up, put, restore, tmp_path, options: dict
) -> None:
    pg16.psql('create role "größe"')
    script = """
        create table t as select 7 as i; alter table t owner to "größe";
        create subscription "nächste" connection 'host=nowhere' publication p
            with (connect = false, slot_name = production);
    """
    target = new_database(pg16, script, encoding="SQL_ASCII", locale="C", template="template0")
    try:
        form = options.pop("foreign", None)
        uri = put(dump(pg16, target, form, tmp_path)) if form else back_up(pg16, target)["uri"]
        done = restore(pg16, target, backup=uri, if_exists="clean", **options)
        assert sorted(done["warnings"]) == [
            DETACHED.replace("news", "nächste")
            + ": it receives nothing until ALTER SUBSCRIPTION gives it a slot (SET (slot_name = ...)) and enables "
            "it (ENABLE)",
            "the target's subscription nächste is dropped, and its slot production stays on its publisher: drop "
            "it there if nothing uses it",
        ]
        facts = "select subname, subslotname, pg_get_userbyid(relowner), i from pg_subscription, pg_class, t"
        assert pg16.psql(f"{facts} where relname = 't'", target) == "nächste||größe|7\n"
    finally:
        pg16.psql(
            'alter subscription "nächste" disable; alter subscription "nächste" set (slot_name = none);'
            'drop subscription "nächste"; drop owned by "größe"; drop role "größe"',
            target,
        )


def test_a_clean_that_fails_leaves_an_attached_subscription_at_work(
    pg16: Cluster, publisher: Cluster, source: str, back_up, restore
) -> None:
    backup = back_up(pg16, source)
    pg16.psql("create view latest as select max(id) from news", source)
    with pytest.raises(AirflowFailException, match=r"view latest depends on table news|public\.latest depends on"):
        restore(pg16, source, backup=backup["uri"], if_exists="clean")
    assert subscription(pg16, source) == [("news", "production", True)]
    assert still_receives(pg16, source, publisher)


def test_a_failed_restore_leaves_no_database_and_the_next_one_succeeds(
    pg16: Cluster, source: str, copies, back_up, restore
) -> None:
    backup, target = back_up(pg16, source), copies()
    with pytest.raises(ServerError, match="no_such"):
        restore(pg16, target, backup=backup["uri"], post_restore_sql="select no_such")
    assert target not in databases(pg16)
    restore(pg16, target, backup=backup["uri"])
    pg16.psql("drop table news", target)
    with pytest.raises(AirflowFailException, match="not empty, it holds subscription news"):
        restore(pg16, target, backup=backup["uri"])


@pytest.mark.parametrize("keep_previous", sample([True, False], 1, "night after night"))
def test_a_database_with_one_is_replaced_night_after_night_whatever_fails_between(
    pg16: Cluster, publisher: Cluster, source: str, copies, back_up, restore, keep_previous: bool
) -> None:
    backup, live = back_up(pg16, source), copies()
    arguments = {"backup": backup["uri"], "if_exists": "replace", "keep_previous": keep_previous}
    others = set(databases(pg16))
    for night in range(3):
        with pytest.raises(ServerError, match="no_such"):
            restore(pg16, live, **arguments, post_restore_sql="select no_such")
        done = restore(pg16, live, **arguments)
        assert (done["previous_database"] is not None) == (keep_previous and night > 0)
        assert subscription(pg16, live) == [("news", None, False)]
        others |= {done["previous_database"]} - {None}
    assert set(databases(pg16)) == others | {live}
    assert still_receives(pg16, source, publisher)


def test_one_that_receives_keeps_a_live_database_from_being_replaced(
    pg16: Cluster, source: str, back_up, restore
) -> None:
    backup = back_up(pg16, source)
    with pytest.raises(
        AirflowFailException, match=r"its subscriptions news would stay with the old one: detach them"
    ):
        restore(pg16, source, backup=backup["uri"], if_exists="replace")


def test_what_a_killed_replace_left_is_dropped_with_its_subscription(
    pg16: Cluster, source: str, copies, back_up, restore
) -> None:
    backup, live = back_up(pg16, source), copies()
    left = f"{live}__restore_0a1b2c"
    pg16.create_database(left)
    pg16.psql("create subscription news connection 'host=nowhere' publication p with (connect = false)", left)
    restore(pg16, live, backup=backup["uri"], if_exists="replace")
    assert left not in databases(pg16)


def test_its_backup_is_verified(pg16: Cluster, publisher: Cluster, source: str, back_up) -> None:
    verify = {"backup": back_up(pg16, source)["uri"], "aws_conn_id": "aws", "task_id": "verify"}
    assert PgS3VerifyOperator(**verify, postgres_conn_id="pg_source").execute({})["outcome"] == "verified"
    assert still_receives(pg16, source, publisher)
