"""Grants that need each other come back at any number of jobs."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.postgres import Cluster
from tests.integration.conftest import only_on

GRANTEES = [f"grantee_{number}" for number in range(150)]
ROLES = ["grants_owner", "granter", *GRANTEES]
# The grants of the schema take so long that those of its tables, run at the same time, come too early.
FILL = f"""
create schema access authorization grants_owner;
grant usage on schema access to granter, {", ".join(GRANTEES)};
set role grants_owner;
{"".join(f"create table access.t{number} as select {number} as i;" for number in range(20))}
grant select on all tables in schema access to granter with grant option;
set role granter;
grant select on all tables in schema access to {", ".join(GRANTEES[:3])};
reset role;
create materialized view public.refreshed as select sum(i) from access.t7;
create function public.watch() returns event_trigger language plpgsql
    as $$begin if tg_tag = 'GRANT' then raise 'too early'; end if; end$$;
create event trigger watch on ddl_command_start execute function public.watch();
"""
ACCESS = "select relname, relacl::text from pg_class where relnamespace = 'access'::regnamespace order by 1"


@pytest.fixture
def roles(pg16: Cluster) -> Iterator[None]:
    pg16.psql("".join(f"create role {role};" for role in ROLES))
    yield
    pg16.psql("".join(f"drop role {role};" for role in ROLES))


@pytest.fixture
def granted(pg16: Cluster, roles: None, new_database: Callable[..., str]) -> str:
    # After the roles, so that the databases in which they have rights are dropped before them.
    return new_database(pg16, FILL)


def assert_same(cluster: Cluster, database: str, other: str) -> None:
    assert cluster.psql(ACCESS, other) == cluster.psql(ACCESS, database)
    assert "granter" in cluster.psql(ACCESS, other)
    for query in ("select * from refreshed", "select evtname from pg_event_trigger"):
        assert cluster.psql(query, other) == cluster.psql(query, database) != ""


@only_on("moto")
@pytest.mark.parametrize("if_exists", ["fail", "clean", "replace"])
def test_grants_of_others_than_the_owner_wait_for_what_they_need(
    pg16: Cluster, granted: str, back_up, restore, new_name, if_exists: str
) -> None:
    done = back_up(pg16, granted)
    target = new_name(pg16)
    for _ in range(1 if if_exists == "fail" else 2):
        restore(pg16, target, backup=done["uri"], jobs=8, if_exists=if_exists, keep_previous=False)
        assert_same(pg16, granted, target)


@only_on("moto")
def test_those_of_another_tools_archive_too(
    pg16: Cluster, granted: str, put, restore, new_name, tmp_path: Path
) -> None:
    dump = tmp_path / "granted.dump"
    subprocess.run([pg16.pg_bin / "pg_dump", "-Fc", "-f", str(dump)], env=pg16.client_env(granted), check=True)
    target = new_name(pg16)
    restore(pg16, target, backup=put(dump.read_bytes()), jobs=8)
    assert_same(pg16, granted, target)
