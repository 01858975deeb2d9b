"""The commands of docs/recovery.md, as they stand there, restore a backup exactly, and without this package."""

import logging
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyrage
import pytest

from airflow_pg_s3.core.backup.backup import BackupResult, back_up
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.repository.repository import Repository
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster, all_installations, installations
from testkit.s3 import REGION, S3Server
from tests.conftest import postgresql_is_missing
from tests.integration.conftest import only_on
from tests.support.sampling import sample

pytestmark = only_on("moto")

DOCUMENT = Path(__file__).parents[3] / "docs/recovery.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"^(?:export )?([A-Z_]+)=", re.MULTILINE)
RUN_BYTES = 3_000_000
CONTENT = """
CREATE TABLE noise AS SELECT i AS id, (SELECT string_agg(decode(md5(i || '/' || j), 'hex'), '')
    FROM generate_series(1, 65536) AS j) AS bytes FROM generate_series(1, 27) AS i;
CREATE TABLE "large é" AS SELECT i, 'row ' || i AS t FROM generate_series(1, 200000) AS i;
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE);
INSERT INTO customers (name) SELECT 'customer ' || i FROM generate_series(1, 100) AS i;
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers);
INSERT INTO orders SELECT i, 1 + i % 100 FROM generate_series(1, 5000) AS i;
CREATE SCHEMA "odd schema";
CREATE TABLE "odd schema"."odd table" AS SELECT i FROM generate_series(1, 7) AS i;
SELECT lo_from_bytea(0, 'a small large object'), lo_from_bytea(0, decode(repeat('00ff5c0a', 1000000), 'hex'));
"""


def blocks(*headings: str) -> list[str]:
    """The bash blocks of these sections, in their order."""
    sections = dict(
        section.split("\n", 1)
        for section in re.split(r"^## (?:\d+\. )?", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    )
    return [block for heading in headings for block in BLOCK.findall(sections[heading])]


SETTINGS = blocks("Settings")[0]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    missing = [tool for tool in ("aws", "jq", "zstd", "tar", "age") if shutil.which(tool) is None]
    if missing:
        reason = f"not found: {', '.join(missing)} (Debian packages awscli, jq, zstd, tar, age)"
        if os.environ.get("PG_S3_REQUIRE_TOOLS") == "1":
            pytest.fail(f"PG_S3_REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)


@pytest.fixture(scope="module")
def database(pg18: Cluster) -> Iterator[str]:
    pg18.create_database("orders & more")
    pg18.psql(CONTENT, "orders & more")
    yield "orders & more"
    pg18.drop_database("orders & more")


@pytest.fixture
def make_backup(pg18: Cluster, s3: S3Server, repository: str, spool_dir: Path) -> Callable[..., BackupResult]:
    """(database, **settings of the core) → the result of a backup."""

    def run(database: str, **settings: object) -> BackupResult:
        keywords = {"host": pg18.host, "port": pg18.port, "user": pg18.user, "password": pg18.password}
        request = BackupRequest(
            source=parameters(database=database, keywords=keywords),
            spool_dir=str(spool_dir),
            client_path=[str(folder) for folder in installations().values()],
            **settings,
        )
        store = Repository(s3.client(), repository)
        return back_up(request, store, cancel=threading.Event(), log=logging.getLogger(__name__))

    return run


@pytest.fixture
def by_hand(pg18: Cluster, s3: S3Server, tmp_path: Path) -> Callable[..., str]:
    """(backup, new database, blocks, …) → what bash prints that runs the document's settings and these blocks."""

    def run(
        made: BackupResult,
        database: str,
        commands: Sequence[str],
        *,
        identity: str = "",
        pg_bin: Path = pg18.pg_bin,
        **settings: str,
    ) -> str:
        (tmp_path / "age.key").write_text(f"# created by hand\n{identity}\n")
        settings = {
            "FOLDER": made.uri.rpartition("/")[0],
            "BACKUP": made.manifest.backup_id,
            "AWS": f"aws --endpoint-url {s3.endpoint_url}",
            "AGE_IDENTITY": str(tmp_path / "age.key"),
            "WORK": str(tmp_path / "a folder"),
            "NEW_DATABASE": database,
            "JOBS": "4",
            "PGHOST": pg18.host,
        } | settings
        script = "\n".join(
            ["set -eux", "export LC_ALL=C.UTF-8", *(filled_in(b, settings) for b in [SETTINGS, *commands])]
        )
        path = ":".join(part for part in [str(pg_bin), os.environ["PATH"]])
        env = {
            "PATH": path,
            "HOME": str(tmp_path),
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "PGPASSWORD": pg18.password,
        }
        done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
        return done.stdout

    def filled_in(block: str, settings: dict[str, str]) -> str:
        """The block with these values for the variables that it sets."""
        exports = f"export PGHOST={pg18.host} PGPORT={pg18.port} PGUSER={pg18.user}"
        lines = []
        for line in block.splitlines():
            match = ASSIGNMENT.match(line)
            if line.startswith("export PGHOST="):
                lines.append(exports)
            elif match:
                lines.append(f"{match.group(1)}={shlex.quote(settings[match.group(1)])}")
            else:
                lines.append(line)
        return "\n".join(lines)

    return run


WHOLE = blocks("Find the backup", "Download", "Unpack", "Check", "Restore")


def test_a_backup_that_refers_to_others_is_restored_exactly(
    pg18: Cluster, database: str, make_backup, by_hand, new_name
):
    copy = new_name(pg18, "by-hand")
    make_backup(database, run_bytes=RUN_BYTES)
    pg18.psql('UPDATE noise SET id = -id WHERE id = 13; DELETE FROM "large é" WHERE i = 50000', database)
    made = make_backup(database, run_bytes=RUN_BYTES)
    assert len(made.manifest.runs) == 2
    said = by_hand(made, copy, WHOLE)
    assert f"{made.manifest.backup_id}.json" in said
    assert f"backup of {database}, PostgreSQL 18" in said
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []


def test_an_encrypted_backup_is_restored_exactly(pg18: Cluster, database: str, make_backup, by_hand, new_name):
    copy = new_name(pg18, "by-hand")
    other, identity = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    recipients = [str(other.to_public()), str(identity.to_public())]
    made = make_backup(database, age_recipients=recipients, run_bytes=RUN_BYTES)
    assert sum(key.endswith(".zst.age") for key in made.manifest.object_keys()) > 5
    by_hand(made, copy, WHOLE, identity=str(identity))
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []


@pytest.mark.parametrize(
    ("schema", "table"),
    sample([("public", "noise"), ("odd schema", "odd table")], 1, "one table by hand"),
)
def test_one_table_is_restored_alone(
    pg18: Cluster, database: str, make_backup, by_hand, new_name, schema: str, table: str, tmp_path: Path
):
    copy = new_name(pg18, "by-hand")
    made = make_backup(database, run_bytes=RUN_BYTES)
    fetch, restore = blocks("One table alone")
    prepare, unpack = blocks("Unpack")
    commands = [blocks("Download")[0], prepare, fetch, unpack, *blocks("Check"), restore]
    by_hand(made, copy, commands, TABLE_SCHEMA=schema, TABLE_NAME=table)
    with pg18.connect(copy) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
    assert tables == [(schema, table)]
    name = f'"{schema}"."{table}"'
    with pg18.connect(copy) as restored, pg18.connect(database) as source:
        query = f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {name} AS t"
        assert restored.execute(query).fetchone() == source.execute(query).fetchone()
    fetched = [path for path in (tmp_path / "a folder/stored").rglob("*") if path.is_file()]
    assert 0 < len(fetched) < len(list(made.manifest.object_keys())) - 1


def with_zstd() -> Path | None:
    """The folder of a pg_restore that was built with zstd and reads archives of 18, which are like those of 17."""
    for each in all_installations():
        linked = subprocess.run(["ldd", each.folder / "pg_restore"], capture_output=True, text=True).stdout
        if each.major >= 17 and "libzstd" in linked:
            return each.folder
    return None


def test_a_pg_restore_with_zstd_reads_the_large_tables_as_they_are_stored(
    pg18: Cluster, database: str, make_backup, by_hand, new_name
):
    folder = with_zstd()
    if folder is None:
        postgresql_is_missing("no pg_restore of 17 or newer with zstd is installed")
    copy = new_name(pg18, "by-hand")
    made = make_backup(database, run_bytes=RUN_BYTES)
    prepare, _ = blocks("Unpack")
    commands = [*blocks("Download"), prepare, *blocks("Without unpacking the large tables", "Check", "Restore")]
    by_hand(made, copy, commands, pg_bin=folder)
    assert compare_databases(pg18.dsn(database), pg18.dsn(copy)) == []


def test_damage_is_found_before_anything_is_restored(
    pg18: Cluster, s3: S3Server, bucket: str, database: str, make_backup, by_hand, new_name
):
    made = make_backup(database, run_bytes=RUN_BYTES)
    # a whole object of valid zstd, which is only not the right one
    base, first = made.key.rpartition("/")[0], f"{made.manifest.backup_id}/000001.zst"
    source = {"Bucket": bucket, "Key": f"{base}/{made.manifest.backup_id}/000002.zst"}
    s3.client().copy_object(Bucket=bucket, Key=f"{base}/{first}", CopySource=source)
    with pytest.raises(AssertionError, match=f"dat: damaged at byte 0 of {first}"):
        by_hand(made, new_name(pg18, "by-hand"), WHOLE)
