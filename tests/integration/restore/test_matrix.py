"""Every PostgreSQL at hand, as source, as target and as client: what was backed up comes back exactly.

Minors matter: those of November 2026 changed what pg_restore takes. So each test's id names them.
"""

from collections.abc import Sequence

import pytest

from airflow_pg_s3.operators.verify import PgS3VerifyOperator
from testkit.database_equality import compare_databases
from testkit.databases import create_hard_roles
from testkit.postgres import Cluster, Installation, all_installations, newest, newest_of_each_major
from testkit.postgresql_binaries import MAJORS
from tests.conftest import postgresql_is_missing
from tests.support.sampling import sample

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

NEWEST = newest_of_each_major()
PAIRS = [(source, target) for source in NEWEST for target in NEWEST if source.major < target.major]


def versions(installation: Installation) -> str:
    return installation.version


def each(installations: Sequence[Installation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("installation", installations, ids=versions)


@pytest.mark.parametrize("major", MAJORS)
def test_the_matrix_has_every_major(major: int, s3):
    try:
        assert newest(major) in NEWEST
    except LookupError as error:
        postgresql_is_missing(str(error))


@pytest.mark.parametrize(("source", "target"), sample(PAIRS, 2, "pairs of majors"), ids=versions)
def test_the_hard_database_comes_back_on_a_newer_major(
    source: Installation, target: Installation, cluster_of, portable_hard_database, back_up, restore, new_name
):
    older, newer = cluster_of(source), cluster_of(target)
    database, copy = portable_hard_database(older), new_name(newer, "copy")
    create_hard_roles(newer)
    made = back_up(older, database, jobs=2)
    restore(newer, copy, backup=made["uri"], jobs=2)
    if source.major < 15:  # whose public schema belongs to a user, which its pg_dump leaves out
        newer.psql(f"ALTER SCHEMA public OWNER TO {older.user}", copy)
    assert compare_databases(older.dsn(database), newer.dsn(copy)) == []


@each(sample(all_installations(), 2, "installations"))
def test_the_hard_database_with_extensions_comes_back_by_the_server_s_own_clients(
    installation: Installation, cluster_of, hard_database, back_up, assert_restored, connections, manifest_of
):
    connections.set_option("client_path", str(installation.folder))
    cluster = cluster_of(installation)
    database = hard_database(cluster)
    made = back_up(cluster, database, jobs=2)
    assert manifest_of(made).dump.pg_dump_version == installation.version
    assert_restored(cluster, database, cluster, made, jobs=2)


# -- all that restores, on the major that Debian brings first of all ----------------------------------------------

of_15 = each([found for found in NEWEST if found.major == 15])


@pytest.fixture
def cluster(installation: Installation, cluster_of) -> Cluster:
    return cluster_of(installation)


@pytest.fixture
def made(cluster: Cluster, portable_hard_database, back_up) -> dict:
    """What the task returned that has backed up the hard database."""
    return back_up(cluster, portable_hard_database(cluster), jobs=2)


@of_15
@pytest.mark.parametrize("jobs", sample([1, 2], 1, "any number"))
def test_a_backup_and_its_restore_take_any_number_of_jobs(
    cluster: Cluster, jobs: int, portable_hard_database, back_up, assert_restored
):
    database = portable_hard_database(cluster)
    assert_restored(cluster, database, cluster, back_up(cluster, database, jobs=jobs), jobs=jobs)


@of_15
@pytest.mark.parametrize("server", sample(["given", "throwaway"], 1, "a verification"))
def test_a_verification_finds_it_equal(cluster: Cluster, made: dict, server: str, connections, spool_dir):
    connections.set("pg_scratch", cluster.airflow_connection("postgres"))
    on = {"postgres_conn_id": "pg_scratch"} if server == "given" else {}
    operator = PgS3VerifyOperator(
        task_id="verify", backup=made["uri"], aws_conn_id="aws", spool_dir=str(spool_dir), jobs=2, **on
    )
    done = operator.execute(context={})
    assert done["outcome"] == "verified"


CHANGED = """
create table version as select 'live' as name;
create table volume_of_ours (i int);
"""


@of_15
@pytest.mark.parametrize("jobs", sample([1, 2], 1, "a replace"))
def test_a_replace_swaps_it_in(
    cluster: Cluster, made: dict, jobs: int, portable_hard_database, new_database, restore
):
    live = new_database(cluster, CHANGED)
    done = restore(cluster, live, backup=made["uri"], if_exists="replace", jobs=jobs)
    try:
        assert compare_databases(cluster.dsn(portable_hard_database(cluster)), cluster.dsn(live)) == []
        assert cluster.psql("select name from version", done["previous_database"]).strip() == "live"
    finally:
        cluster.drop_database(done["previous_database"])


# Default privileges are no part of what is dropped: tables restored where there are some would get them as well.
DAMAGE = """
DELETE FROM volume.orders WHERE id % 3 = 0;
ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM lab_reader;
DROP TABLE volume.narrow;
ALTER TABLE volume.toasted ADD COLUMN added_since int;
SELECT lo_unlink(oid) FROM pg_largeobject_metadata LIMIT 1;
"""


@of_15
@pytest.mark.parametrize("jobs", sample([1, 2], 1, "clean"))
def test_clean_turns_a_damaged_copy_into_the_backup(
    cluster: Cluster, made: dict, jobs: int, portable_hard_database, new_name, restore
):
    database, copy = cluster.dsn(portable_hard_database(cluster)), new_name(cluster, "copy")
    restore(cluster, copy, backup=made["uri"], jobs=jobs)
    cluster.psql(DAMAGE, copy)
    assert compare_databases(database, cluster.dsn(copy)) != []
    restore(cluster, copy, backup=made["uri"], if_exists="clean", jobs=jobs)
    assert compare_databases(database, cluster.dsn(copy)) == []
