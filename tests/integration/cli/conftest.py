"""`pg-s3` as a process of its own, between real servers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from testkit.postgres import Cluster, installations
from testkit.s3 import REGION, S3Server

PG_S3 = str(Path(sys.executable).with_name("pg-s3"))
# The wheel's 16 and 18 are in no place that is searched by itself.
CLIENT_PATH = [word for folder in installations().values() for word in ("--client-path", str(folder))]


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def environment(s3: S3Server, tmp_path: Path) -> dict[str, str]:
    """What a shell has: keys of S3 and its settings, and nothing of PostgreSQL, Airflow or the user."""
    config = tmp_path / "aws-config"
    config.write_text("[default]\ns3 =\n    addressing_style = path\n")
    return {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": str(config),
        "AWS_EC2_METADATA_DISABLED": "true",
        "TZ": "America/New_York",
    }


@pytest.fixture
def pg_s3(environment: dict[str, str]) -> Callable[..., Ended]:
    """(*arguments, **further environment) → how the command has ended."""

    def run(*arguments: str, **further: str) -> Ended:
        done = subprocess.run(
            [PG_S3, *arguments], env=environment | further, capture_output=True, text=True, timeout=300
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def uri_of(cluster: Cluster, database: str = "postgres") -> str:
    """A URI without the password, which is `PGPASSWORD`'s to bring."""
    return f"postgresql://{cluster.user}@{cluster.host}:{cluster.port}/{quote(database)}"


@pytest.fixture
def made(
    pg18: Cluster, repository: str, pg_s3: Callable[..., Ended], spool_dir: Path, new_database: Callable[..., str]
) -> Callable[..., dict]:
    """(sql, *arguments, name=…) → the facts of a backup of a new database that holds `sql`."""

    def make(sql: str, *arguments: str, name: str = "test") -> dict:
        database = new_database(pg18, sql, name=name)
        command = ("backup", uri_of(pg18, database), repository, "--output", "json", "--spool-dir", str(spool_dir))
        done = pg_s3(*command, *CLIENT_PATH, *arguments, PGPASSWORD=pg18.password)
        assert done.code == 0, done.err
        return done.json

    return make
