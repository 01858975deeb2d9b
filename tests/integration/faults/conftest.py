"""Faults and attacks: a seeded sample in CI, all of them with `make torture`."""

from collections.abc import Callable, Iterator

import pytest

from testkit.fault_proxy import FaultProxy
from testkit.postgres import Cluster
from testkit.s3 import Ceph, S3Server
from tests.integration.faults.world import BEFORE, World


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> S3Server:
    """The strict one where it can be had: moto does not notice what is damaged on its way to it."""
    name = "moto" if Ceph.available() else "ceph"
    found: S3Server = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    """The server, through a proxy that fails as it is told to."""
    with FaultProxy(server) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(pg18: Cluster) -> Cluster:
    return pg18


@pytest.fixture(scope="module")
def world(cluster: Cluster, server: S3Server) -> Iterator[World]:
    made = World(cluster, server)
    yield made
    made.close()


@pytest.fixture
def new_live(world: World, new_name: Callable[..., str]) -> Callable[[], str]:
    """() → the name of a new live database, whose content a restore is to replace."""

    def make() -> str:
        live = new_name(world.cluster)
        world.cluster.create_database(live)
        world.cluster.psql(BEFORE, live)
        return live

    return make
