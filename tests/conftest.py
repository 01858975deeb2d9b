"""Airflow's environment, set before anything imports airflow, and real servers, started when asked for."""

import atexit
import base64
import functools
import os
import pickle
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))

for inherited in [name for name in os.environ if name.startswith(("AIRFLOW_", "AWS_", "PG"))]:
    if not inherited.startswith("PG_S3_"):  # our own switches
        del os.environ[inherited]
AIRFLOW_HOME = tempfile.mkdtemp(prefix="airflow-home-")
atexit.register(shutil.rmtree, AIRFLOW_HOME, ignore_errors=True)
os.environ |= {
    "AIRFLOW_HOME": AIRFLOW_HOME,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AWS_EC2_METADATA_DISABLED": "true",
}

import botocore.session  # noqa: E402
import pytest  # noqa: E402

from testkit.databases import create_hard_database  # noqa: E402
from testkit.postgres import Cluster, Installation, newest, with_vector  # noqa: E402
from testkit.postgresql_binaries import SWITCH  # noqa: E402
from testkit.s3 import Ceph, Moto, S3Server  # noqa: E402
from testkit.sandbox import Sandbox, memory_dir  # noqa: E402
from tests.support.fault_tally import TALLY  # noqa: E402
from tests.support.sampling import SEED, sample  # noqa: E402

# Each task has a session of botocore's, and each session would read the descriptions of AWS's services anew.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)
Sandbox.default_dir = memory_dir()
MAJORS = (15, 16, 18)
CEPH_IS_REQUIRED = os.environ.get("PG_S3_REQUIRE_CEPH") == "1"
S3_SERVERS = ["moto", "ceph"] if CEPH_IS_REQUIRED or Ceph.available() is None else ["moto"]


def postgresql_is_missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where PG_S3_REQUIRE_POSTGRESQL=1 says that nothing may be missing."""
    if os.environ.get(SWITCH) == "1":
        pytest.fail(f"{SWITCH}=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster_of() -> Iterator[Callable[[int | Installation], Cluster]]:
    """major, or installation → its server, one for the whole session; skips the test where it isn't installed."""
    running: dict[Installation, Cluster] = {}

    def start(wanted: int | Installation) -> Cluster:
        try:
            installation = newest(wanted) if isinstance(wanted, int) else wanted
        except LookupError as error:
            postgresql_is_missing(str(error))
        if installation not in running:
            running[installation] = Cluster(installation=installation).__enter__()
        return running[installation]

    try:
        yield start
    finally:
        for cluster in running.values():
            cluster.__exit__(None, None, None)


@pytest.fixture(scope="session")
def pg15(cluster_of: Callable[[int], Cluster]) -> Cluster:
    return cluster_of(15)


@pytest.fixture(scope="session")
def pg16(cluster_of: Callable[[int], Cluster]) -> Cluster:
    return cluster_of(16)


@pytest.fixture(scope="session")
def pg18(cluster_of: Callable[[int], Cluster]) -> Cluster:
    return cluster_of(18)


@pytest.fixture(scope="session")
def pg16_with_vector(cluster_of: Callable[[Installation], Cluster]) -> Cluster:
    return cluster_of(with_vector(16))


@pytest.fixture(scope="session")
def pg18_with_vector(cluster_of: Callable[[Installation], Cluster]) -> Cluster:
    return cluster_of(with_vector(18))


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, cluster_of: Callable[[int], Cluster]) -> Cluster:
    """The server of a major; `parametrize("postgres", [18], indirect=True)` chooses."""
    return cluster_of(request.param)


@pytest.fixture(scope="session")
def hard_database() -> Callable[[Cluster], str]:
    """cluster → the name of its hard database, made when first asked for; tests must not change it."""
    made: set[str] = set()

    def name_of(cluster: Cluster) -> str:
        if cluster.dsn() not in made:
            create_hard_database(cluster, "hard db")
            made.add(cluster.dsn())
        return "hard db"

    return name_of


@pytest.fixture(scope="session")
def portable_hard_database() -> Callable[[Cluster], str]:
    """Like `hard_database`, without extensions: PostgreSQL's builds have different ones."""
    made: set[str] = set()

    def name_of(cluster: Cluster) -> str:
        if cluster.dsn() not in made:
            create_hard_database(cluster, "portable hard db", extensions=False)
            made.add(cluster.dsn())
        return "portable hard db"

    return name_of


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    with Moto() as server:
        yield server


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    reason = Ceph.available()
    if reason is not None:
        if CEPH_IS_REQUIRED:
            pytest.fail(f"PG_S3_REQUIRE_CEPH=1, but Ceph can't be started: {reason}")
        pytest.skip(f"Ceph: {reason}")
    with Ceph() as server:
        yield server


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest) -> S3Server:
    """One of the S3 servers; `parametrize("s3", ["moto"], indirect=True)` chooses."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The name of a new, empty bucket of `s3`."""
    return s3.create_bucket(f"test-{uuid.uuid4().hex[:12]}")


def names_of(parametrize: pytest.Mark) -> Collection[str]:
    return parametrize.args[0].split(",") if isinstance(parametrize.args[0], str) else parametrize.args[0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test that chooses no server have some of them: others every day, as in any sweep."""
    chosen = {name for mark in metafunc.definition.iter_markers("parametrize") for name in names_of(mark)}
    for name, servers, size in [("postgres", MAJORS, 2), ("s3", S3_SERVERS, 1)]:
        if name in metafunc.fixturenames and name not in chosen:
            some = sample(servers, size, name, metafunc.definition.nodeid)
            metafunc.parametrize(name, some, indirect=True, scope="session")


def pytest_report_header() -> str:
    return f"PG_S3_SEED={SEED}"


# -- the tally of faults, which the worker processes of pytest-xdist hand in at their end -------------------------


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = base64.b64encode(pickle.dumps(TALLY)).decode()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    handed_in = getattr(node, "workeroutput", {}).get("tally")
    if handed_in is not None:
        TALLY.merge(pickle.loads(base64.b64decode(handed_in)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY:
        terminalreporter.section("faults")
        for line in TALLY.lines():
            terminalreporter.write_line(line)
