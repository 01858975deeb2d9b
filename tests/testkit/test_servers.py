"""The servers of the testkit: they ask for passwords, and nothing of them stays, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

import testkit.postgres
from testkit.postgres import WHEEL, Cluster, Installation, all_installations, with_vector
from testkit.s3 import S3Server

ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool], *, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_server_listens_on_tcp_and_on_a_socket_and_asks_for_the_password(postgres: Cluster) -> None:
    for over in ("tcp", "socket"):
        with psycopg.connect(postgres.dsn(over=over)) as connection:
            assert connection.info.server_version // 10000 == postgres.major
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.dsn(over=over, password="wrong"))


def test_a_server_keeps_its_data_and_port_over_a_crash() -> None:
    with Cluster(major=16, settings={"work_mem": "7MB"}, socket_auth="trust") as pg:
        pg.create_database("a b", encoding="LATIN1", locale="C", template="template0")
        port = pg.port
        pg.restart("immediate")
        assert pg.port == port
        assert pg.psql("SHOW work_mem; SHOW server_encoding", "a b").split() == ["7MB", "LATIN1"]
        psycopg.connect(pg.dsn(over="socket", password="wrong")).close()


def test_an_airflow_connection_of_a_server_is_what_airflow_reads(pg16: Cluster) -> None:
    from airflow.providers.common.compat.sdk import Connection

    read = Connection.from_json(pg16.airflow_connection("orders", sslmode="disable"))
    assert (read.conn_type, read.host, read.port) == ("postgres", pg16.host, pg16.port)
    assert (read.login, read.password, read.schema) == ("postgres", pg16.password, "orders")
    assert read.extra_dejson == {"sslmode": "disable"}


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """Unlike pytest's tmp_path, a directory that other users get through; its path is a long one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        Path(top).chmod(0o711)
        folder = Path(top, "x" * 100)
        folder.mkdir()
        yield folder


def test_nothing_of_a_server_stays_after_an_error(open_dir: Path) -> None:
    with suppress(ZeroDivisionError), Cluster(major=16, base_dir=open_dir) as pg:
        assert pg.data_dir.is_relative_to(open_dir)
        assert pg.socket_dir.exists()
        raise ZeroDivisionError
    assert not alive(pg.pid)
    assert list(open_dir.iterdir()) == []
    assert not pg.socket_dir.exists()


def test_nothing_of_a_server_stays_when_its_settings_are_refused(open_dir: Path) -> None:
    cluster = Cluster(major=16, base_dir=open_dir, settings={"no_such_setting": 1})
    with pytest.raises(RuntimeError, match="no_such_setting"):
        cluster.__enter__()
    assert list(open_dir.iterdir()) == []


def test_a_base_dir_that_the_server_user_cannot_reach_does_no_harm(tmp_path: Path) -> None:
    with Cluster(major=16, base_dir=tmp_path) as pg:
        assert pg.psql("SELECT 1").strip() == "1"


def test_nothing_of_a_server_stays_when_its_python_is_killed() -> None:
    code = "from testkit.postgres import *; c = Cluster(major=16).__enter__(); print(c.pid, c.data_dir); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    pid, data_dir = child.stdout.readline().split()
    assert alive(int(pid))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert until(lambda: not alive(int(pid)))
    assert until(lambda: not Path(data_dir).parent.exists())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_binaries_that_the_server_user_cannot_reach_are_copied(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    of_the_wheel = with_vector(16)
    original = of_the_wheel.folder.parent
    private = tmp_path / WHEEL / original.name
    shutil.copytree(original, private)
    shutil.copytree(original.parent.with_suffix(".libs"), private.parent.with_suffix(".libs"))
    with Cluster(installation=of_the_wheel._replace(folder=private / "bin")) as pg:
        assert pg.psql("SELECT 1").strip() == "1"


def test_a_major_that_is_missing_is_named_with_those_that_are_there() -> None:
    with pytest.raises(LookupError, match=r"PostgreSQL 9 is not installed; found: .*16.*, 18"):
        Cluster(major=9)


def test_a_major_is_its_newest_minor_and_others_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"/a": "16.14", "/b": None, "/c": "16.9", "/d": "9.6", "/e": "16.14"}
    monkeypatch.setattr(testkit.postgres, "_folders", lambda: map(Path, versions))
    monkeypatch.setattr(testkit.postgres, "version_of", lambda folder: versions[str(folder)])
    monkeypatch.setattr(testkit.postgres, "all_installations", all_installations.__wrapped__)
    assert [str(each.folder) for each in testkit.postgres.all_installations()] == ["/d", "/c", "/a", "/e"]
    assert testkit.postgres.installations() == {9: Path("/d"), 16: Path("/e")}
    assert Cluster(major=16).version == "16.14"
    assert Cluster(installation=Installation("16.9", Path("/c"))).pg_bin == Path("/c")


@pytest.mark.parametrize("installation", all_installations(), ids=lambda each: each.version)
def test_each_server_and_client_has_the_version_that_it_is_listed_with(installation: Installation) -> None:
    with Cluster(installation=installation) as pg:
        server = pg.psql("SHOW server_version").split()[0]
        assert (server, pg.run("pg_dump", "--version").split()[2]) == (installation.version,) * 2


def test_an_object_comes_back_from_s3(s3: S3Server, bucket: str) -> None:
    client = s3.client()
    client.put_object(Bucket=bucket, Key="a/ü b", Body=b"x" * 100)
    assert client.get_object(Bucket=bucket, Key="a/ü b")["Body"].read() == b"x" * 100


def test_an_airflow_connection_of_s3_reaches_the_server(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    connection = s3.airflow_connection(verify=False)
    assert json.loads(connection)["extra"]["verify"] is False
    monkeypatch.setenv("AIRFLOW_CONN_LAB_S3", connection)
    assert S3Hook("lab_s3").check_for_bucket(bucket)


def test_ceph_refuses_a_wrong_key(ceph: S3Server) -> None:
    client = ceph.client()
    stranger = ceph.client()
    stranger._request_signer._credentials.secret_key = "wrong"  # type: ignore[attr-defined]
    client.list_buckets()
    with pytest.raises(client.exceptions.ClientError, match="SignatureDoesNotMatch"):
        stranger.list_buckets()
