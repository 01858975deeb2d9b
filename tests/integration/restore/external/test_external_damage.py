"""Archives of other tools that are damaged or hostile: nothing looks restored, nothing is written elsewhere."""

import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from backports import zstd

from airflow_pg_s3.core.errors import ClientProgramError, IntegrityError, PgS3Error
from airflow_pg_s3.core.s3.download import RANGE_BYTES
from airflow_pg_s3.core.workspace import resources
from testkit.dumps import COMPRESS, FORMATS, dump
from testkit.postgres import Cluster, installations
from testkit.s3 import S3Server
from tests.support.sampling import combine, sample
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

# With it, plain dumps can be replayed with the versions of psql that can be had here.
UNSAFE = {"allow_unsafe_psql": True}


def databases(cluster: Cluster) -> set[str]:
    with cluster.connect() as connection:
        return {name for (name,) in connection.execute("select datname from pg_database").fetchall()}


# -- what is damaged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "compression"), sample(combine(FORMATS, COMPRESS, name="truncated"), 2, "truncated")
)
def test_a_truncated_archive_never_replaces_anything(
    pg16: Cluster, small, put, restore, new_database, form: str, compression: str
) -> None:
    live = new_database(pg16, "create table live as select 'live'::text as name", name="live")
    archive = small.archive(form)
    if form == "directory":
        archive = archive.rstrip(b"\0")  # tar fills its last record up
    whole = COMPRESS[compression](archive)
    before = databases(pg16)
    # In the middle and at the end, within what only an attentive reader would miss.
    cuts = [3, len(whole) // 2, len(whole) - 9]
    if (form, compression) != ("custom", "bare"):
        cuts.append(len(whole) - 5)
    if compression == "bare":  # else the compression notices, wherever it is (test_decompress.py)
        cuts += [100, 4000, len(whole) - 2000, len(whole) - 513, len(whole) - 70]
    for jobs, cut in enumerate(cuts):
        with pytest.raises((PgS3Error, AirflowFailException)):
            restore(pg16, live, backup=put(whole[:cut]), if_exists="replace", jobs=1 + jobs % 2, **UNSAFE)
        assert databases(pg16) == before
        assert pg16.psql("select name from live", live).strip() == "live"


def test_truncated_at_every_table_the_end_is_missed(pg16: Cluster, small, put, restore, new_name) -> None:
    """A plain dump cut between two commands is a script without an error."""
    script = small.archive("plain")
    ends = [position for position in range(len(script)) if script.startswith(b";\n\n", position)]
    for end in ends[:: len(ends) // 6]:
        target = new_name(pg16)
        with pytest.raises(IntegrityError, match="ends too early"):
            restore(pg16, target, backup=put(script[: end + 2]), **UNSAFE)
        assert target not in databases(pg16)


@pytest.mark.parametrize(
    ("form", "compression"), sample(combine(FORMATS, ["gzip", "zstd"], name="flipped bit"), 2, "flipped bit")
)
def test_a_flipped_bit_is_noticed(
    pg16: Cluster, small, put, restore, new_name, form: str, compression: str
) -> None:
    archive = small.archive(form)
    compressed = COMPRESS[compression](archive)
    for position in (len(compressed) // 2, len(compressed) * 3 // 4):
        damaged = bytearray(compressed)
        damaged[position] ^= 1
        target = new_name(pg16)
        with pytest.raises((IntegrityError, ClientProgramError)):
            restore(pg16, target, backup=put(bytes(damaged)), **UNSAFE)
        assert target not in databases(pg16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b'{"a": 1}', "JSON"),
        (b"BZh91AY&SY", "bzip2"),
        (gzip.compress(gzip.compress(b"PGDMP", mtime=0), mtime=0), "gzip data within"),
        (b"create table t (i int);\n", "text that does not begin"),
        (b"--\n-- PostgreSQL database cluster dump\n--\n", "pg_dumpall"),
        (b"\x7fELF\x02\x01\x01\0", "7f 45 4c 46"),
        (b"age-encryption.org/v1\n", "age"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_what_is_no_archive_is_named(pg16: Cluster, put, restore, new_name, data: bytes, message: str) -> None:
    target = new_name(pg16)
    uri = put(data)
    with pytest.raises(AirflowFailException, match=message) as caught:
        restore(pg16, target, backup=uri)
    assert uri in str(caught.value)
    assert target not in databases(pg16)


def test_an_object_that_is_not_there_is_named(pg16: Cluster, bucket, restore, new_name) -> None:
    with pytest.raises(AirflowFailException, match=f"there is no backup or archive s3://{bucket}/nothing.dump"):
        restore(pg16, new_name(pg16), backup=f"s3://{bucket}/nothing.dump")
    with pytest.raises(AirflowFailException, match="folder"):
        restore(pg16, new_name(pg16), backup=f"s3://{bucket}/some/")


# -- what is hostile ----------------------------------------------------------------------------------------------


def hostile(kind: str, *, name: str = "1.dat") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = {
        "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE,
        "fifo": tarfile.FIFOTYPE, "file": tarfile.REGTYPE,
    }[kind]  # fmt: skip
    info.linkname = "/etc/passwd"
    info.size = 4 if kind == "file" else 0
    return info


@pytest.mark.parametrize(
    "info",
    [
        hostile("file", name="../1.dat"),
        hostile("file", name="dump/../../1.dat"),
        hostile("file", name="/tmp/airflow-pg-s3-hostile/1.dat"),
        hostile("symlink"),
        hostile("symlink", name="toc.dat"),
        hostile("hardlink"),
        hostile("device"),
        hostile("fifo"),
        hostile("file", name="other/1.dat"),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_a_hostile_tar_writes_nothing_outside(
    pg16: Cluster, put, restore, new_name, spool_dir: Path, info: tarfile.TarInfo, form: int
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        first = tarfile.TarInfo("dump/1000.dat")
        first.size = 5
        tar.addfile(first, io.BytesIO(b"\\.\n\n\n"))
        tar.addfile(info, io.BytesIO(b"evil"))
    outside = {path for folder in (spool_dir.parent, Path("/tmp")) for path in folder.iterdir()}
    with pytest.raises(IntegrityError, match="holds"):
        restore(pg16, new_name(pg16), backup=put(gzip.compress(packed.getvalue())))
    new = {path for folder in (spool_dir.parent, Path("/tmp")) for path in folder.iterdir()} - outside
    assert not [path for path in new if "hostile" in path.name or path.suffix == ".dat"]


def test_a_member_that_does_not_fit_is_refused_before_it_is_written(pg16: Cluster, put, restore, new_name) -> None:
    info = tarfile.TarInfo("dump/1.dat")
    info.size = 1 << 50
    bomb = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(AirflowFailException, match=r"1125.90 TB.*spool_dir"):
        restore(pg16, new_name(pg16), backup=put(bomb))


def test_an_archive_that_does_not_fit_is_refused_before_it_is_downloaded(
    pg16: Cluster, hard_archives, put, restore, new_name, monkeypatch
) -> None:
    archive = hard_archives("custom")
    free = len(archive) // 2
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(AirflowFailException, match=rf"{free / 1e6:.1f} MB free.*jobs=1"):
        restore(pg16, new_name(pg16), backup=put(archive), jobs=2)
    # It streams without the room.
    restore(pg16, new_name(pg16), backup=put(archive), jobs=1)


# -- in a process of its own --------------------------------------------------------------------------------------

RESTORE = """
import itertools, json, resource, sys, threading, logging
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.restore import restore
from airflow_pg_s3.core.postgres.connection import parameters
import boto3, botocore.config
given = json.load(sys.stdin)
client = boto3.client("s3", **given["s3"], config=botocore.config.Config(s3={"addressing_style": "path"}))
request = RestoreRequest(backup=given["uri"], target=parameters(database=given["database"], keywords=given["pg"]),
    spool_dir=given["spool"], client_path=given["path"], allow_unsafe_psql=True)
try:
    if given["hold"]:  # after two ranges, for ever
        stream = Downloader.stream
        def hold(self, objects):
            yield from itertools.islice(stream(self, objects), 2)
            threading.Event().wait()
        Downloader.stream = hold
    restore(request, client, cancel=threading.Event(), log=logging.getLogger())
    outcome = "restored"
except Exception as error:
    outcome = f"{type(error).__name__}: {error}"
print(json.dumps([outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@pytest.fixture
def start_restore(s3: S3Server, spool_dir: Path, pg16: Cluster) -> Callable[..., subprocess.Popen]:
    """(URI, database, hold=False) → a process that restores, and prints how it ended and the most memory it had.

    With `hold`, nothing comes from S3 any more after the first two ranges of an object.
    """

    def start(uri: str, database: str, *, hold: bool = False) -> subprocess.Popen:
        given = {
            "uri": uri, "database": database, "hold": hold, "spool": str(spool_dir),
            "path": [str(folder) for folder in installations().values()],
            "pg": {"host": pg16.host, "port": pg16.port, "user": pg16.user, "password": pg16.password},
            "s3": {"endpoint_url": s3.endpoint_url, "region_name": "us-east-1",
                   "aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key},
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", RESTORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        return process

    return start


@pytest.fixture
def peak_of(start_restore) -> Callable[[str, str], tuple[str, int]]:
    """(URI, database) → how a restore ended, and the most memory that it had, in bytes."""

    def run(uri: str, database: str) -> tuple[str, int]:
        with start_restore(uri, database) as process:
            outcome, peak = json.load(process.stdout)
        return outcome, peak

    return run


def test_a_script_whose_restore_is_killed_commits_nothing(
    pg16: Cluster, put, start_restore, new_database, processes, tmp_path: Path
) -> None:
    """psql sees its input end just as if the script had: in the middle of a table's rows."""
    source = new_database(
        pg16, "create table t as select i, repeat('x', 200) as x from generate_series(1, 120000) i"
    )
    script = dump(pg16, source, "plain", tmp_path)
    assert len(script) > 2 * RANGE_BYTES
    uri = put(script)
    target = new_database(pg16)
    in_copy = (
        "select count(*) from pg_stat_activity where datname = %s and query like 'COPY%%' and state = 'active'"
    )
    for _ in range(3):
        with start_restore(uri, target, hold=True) as process, pg16.connect() as connection:
            try:
                wait_until(lambda connection=connection: connection.execute(in_copy, [target]).fetchone() == (1,))
            finally:
                process.kill()
        wait_until(lambda: processes() == [])
        assert pg16.psql("select count(*) from pg_class where relname = 't'", target) == "0\n"


@pytest.mark.parametrize("compression", sample(["gzip", "zstd"], 1, "bomb"))
def test_a_bomb_is_not_held_in_memory(pg16: Cluster, small, put, peak_of, new_name, compression: str) -> None:
    """128 MiB in little: behind an archive, within a script, as a table of contents."""
    nothing = bytes(1 << 20)
    lines = (b"-- ".ljust(4095) + b"\n") * 256

    def bomb(beginning: bytes, filling: bytes) -> bytes:
        if compression == "gzip":
            buffer = io.BytesIO()
            with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
                for piece in [beginning, *[filling] * 128]:
                    file.write(piece)
            return buffer.getvalue()
        compressor = zstd.ZstdCompressor(level=1)
        return b"".join(map(compressor.compress, [beginning, *[filling] * 128])) + compressor.flush()

    small_peak = peak_of(put(small.archive("custom")), new_name(pg16))[1]
    for beginning, filling, expected in (
        (small.archive("custom"), nothing, "restored"),
        (small.archive("plain"), lines, "IntegrityError"),
        (b"PGDMP\x01\x0f\x00\x04\x08\x01", nothing, "Error"),
    ):
        outcome, peak = peak_of(put(bomb(beginning, filling)), new_name(pg16))
        assert expected in outcome
        assert peak < small_peak + (48 << 20)
