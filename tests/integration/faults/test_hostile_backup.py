"""A backup whose manifest and objects somebody has made up: it reads nothing of the worker, and fills no disk."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from airflow_pg_s3.core.errors import IntegrityError, PgS3Error
from airflow_pg_s3.core.postgres.archive.toc import _Reader, parse_toc, read_folder
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.pack import PackReader, tar_header, tar_padding
from testkit.postgres import Cluster
from tests.integration.faults.task import Task
from tests.integration.faults.world import DATABASE, World
from tests.support.fault_tally import TALLY
from tests.support.sampling import combine
from tests.support.stored_backups import sealed_json

GIB = 1 << 30
PATH = b"../../../../../../../etc/hostname"
# What a task takes by itself, and something for one job's buffers.
MEMORY_MIB = 256


class Member:
    """Collects what a pack holds."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, chunk: bytes) -> None:
        self.data += chunk

    def close(self) -> None:
        pass


class Forgery:
    """A copy of a backup that can be edited, with sizes and digests that fit: what a thief of rights can do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.prefix = world.copy()
        self.uri = world.uri(self.prefix)
        self.manifest = json.loads(self.get(self._key(f"{world.backup.manifest.backup_id}.json")))
        self._list = f"{self.manifest['backup_id']}/members.json.zst"
        lines = zstd.decompress(self.get(self._key(self._list))).splitlines()
        self.members: list[dict[str, Any]] = [{"table": None} | json.loads(line) for line in lines]

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{DATABASE}/{name}"

    def get(self, key: str) -> bytes:
        data: bytes = self.world.client.get_object(Bucket=self.world.bucket, Key=key)["Body"].read()
        return data

    def member(self, name: str) -> dict[str, Any]:
        return next(member for member in self.members if member["name"] == name)

    def pack_of(self, name: str) -> tuple[str, dict[str, bytes]]:
        """The object that a member is packed in, and what it holds."""
        key: str = self.member(name)["pack"]
        found: dict[str, Member] = {}
        reader = PackReader(lambda inner, _: found.setdefault(inner, Member()))
        Decoder(None, ()).decode(iter([self.get(self._key(key))]), reader.write)
        return key, {inner: member.data for inner, member in found.items()}

    def edit(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Change a member that is in a pack."""
        key, members = self.pack_of(name)
        members[name] = change(members[name])
        self.member(name).update(raw_bytes=len(members[name]), sha256=hashlib.sha256(members[name]).hexdigest())
        packed = b"".join(tar_header(n, len(d)) + d + tar_padding(len(d)) for n, d in members.items())
        self.put(key, zstd.compress(packed + bytes(1024)))

    def put(self, key: str, data: bytes) -> None:
        """Store an object in the place of another."""
        self.world.client.put_object(Bucket=self.world.bucket, Key=self._key(key), Body=data)
        for record in self.manifest["packs"]:
            if record["key"] == key:
                record["stored_bytes"] = len(data)

    def seal(self) -> str:
        """Store the list of members and the manifest; the backup's URI."""
        raw = b"".join(json.dumps(member).encode() + b"\n" for member in self.members)
        stored = zstd.compress(raw)
        self.put(self._list, stored)
        self.manifest["members"] = {
            "stored_bytes": len(stored),
            "raw_bytes": len(raw),
            "sha256": hashlib.sha256(stored).hexdigest(),
        }
        self.world.client.put_object(
            Bucket=self.world.bucket,
            Key=self._key(f"{self.manifest['backup_id']}.json"),
            Body=sealed_json(self.manifest),
        )
        return self.uri


@pytest.fixture
def forgery(world: World) -> Forgery:
    return Forgery(world)


@pytest.fixture
def assert_refused(world: World, new_live: Callable[[], str]) -> Callable[[str, str, str], None]:
    """(case, URI, message): no restore takes it, and no verification finds it right."""

    def check(case: str, uri: str, message: str) -> None:
        live = new_live()
        with pytest.raises(IntegrityError, match=message):
            world.replace(live, uri)
        assert world.tables(live) == ["before"]
        ends = set()
        for arguments in ({}, {"level": "checksum", "server": None}):
            ends.add(world.verify(uri, **arguments).verification.outcome)
        assert ends == {"failed"}
        TALLY.count("hostile backup", case, "refused")

    return check


def text_of(name: bytes) -> bytes:
    """A string as it stands in a toc.dat."""
    return b"\0" + len(name).to_bytes(4, "little") + name


def wrapped(number: int) -> bytes:
    """A number that is this one where it wraps at 32 bits, and another where it does not."""
    return b"\1" + ((1 << 32) - number).to_bytes(4, "little")


def with_count_wrapped(toc: bytes) -> bytes:
    """The table of contents with the number of its entries written so."""
    reader = _Reader(toc, 8, len(toc), (toc[5], toc[6]))
    reader._head()
    reader._texts(3)
    at = reader._at
    return toc[:at] + wrapped(int.from_bytes(toc[at + 1 : at + 5], "little")) + toc[at + 5 :]


def test_a_forgery_that_changes_nothing_is_restored(
    world: World, forgery: Forgery, new_live: Callable[[], str]
) -> None:
    """Else the tests below would prove nothing."""
    forgery.edit("toc.dat", lambda toc: toc)
    live = new_live()
    world.replace(live, forgery.seal())
    assert world.tables(live) == ["large", "small"]


def test_a_table_whose_data_is_a_file_of_the_worker_is_refused(
    forgery: Forgery, assert_refused: Callable, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1\n2\n\\.\n")
    (name,) = (m["name"] for m in forgery.members if m["table"] and m["table"]["name"] == "small")
    path = ("../" * 12 + str(secret)[1:]).encode()
    forgery.edit("toc.dat", lambda toc: toc.replace(text_of(name.encode()), text_of(path)))
    assert_refused("a table from a file", forgery.seal(), "names the file .*secret")


@pytest.mark.parametrize(
    ("what", "edit", "message"),
    [
        # As C reads these numbers, they are the right ones.
        ("length", lambda toc, name: toc.replace(text_of(name), wrapped(len(PATH)) + PATH), "cannot have written"),
        ("number of entries", lambda toc, name: with_count_wrapped(toc), "cannot have written"),
        ("end", lambda toc, name: toc + b"x", "continues after its end"),
        # For C, a string ends here.
        ("kind", lambda toc, name: toc.replace(text_of(b"BLOBS"), text_of(b"BLOBS\0x")), "a NUL"),
        ("name", lambda toc, name: toc.replace(text_of(name), text_of(PATH + b"\0.dat")), "a NUL"),
        ("size of integers", lambda toc, name: toc[:8] + b"\x08" + toc[9:], "numbers of another size"),
    ],
    ids=["length", "number of entries", "end", "kind", "name", "size of integers"],
)
def test_what_pg_restore_would_read_otherwise_than_we_do_is_refused(
    forgery: Forgery, assert_refused: Callable, what: str, edit: Callable[[bytes, bytes], bytes], message: str
) -> None:
    (name,) = (m["name"] for m in forgery.members if m["table"] and m["table"]["name"] == "small")

    def change(toc: bytes) -> bytes:
        changed = edit(toc, name.encode())
        assert changed != toc
        return changed

    forgery.edit("toc.dat", change)
    assert_refused(f"an ambiguous table of contents: {what}", forgery.seal(), message)


def test_a_manifest_that_gives_data_to_another_table_is_not_verified(world: World, forgery: Forgery) -> None:
    (table,) = (m["table"] for m in forgery.members if m["table"] and m["table"]["name"] == "small")
    (name,) = (m["name"] for m in forgery.members if m["table"] is table)
    columns = ", ".join(table["columns"])
    table["name"] = "another"
    done = world.verify(forgery.seal(), level="checksum", server=None).verification
    detail = (
        f"the manifest says that it is of public.another ({columns}), and the table of contents that it is of "
        f"public.small ({columns})"
    )
    assert done.outcome == "failed"
    assert [(d.name, d.detail) for d in done.differences] == [(name, detail)]


def test_a_last_line_without_an_end_is_refused(forgery: Forgery, assert_refused: Callable) -> None:
    (listed,) = (m["name"] for m in forgery.members if m["name"].endswith(".toc"))
    forgery.edit(listed, lambda names: names + b"4712 " + PATH)
    assert_refused("a large object from a file", forgery.seal(), "names no large object")


def test_rows_that_do_not_load_are_the_archives_fault_with_any_number_of_jobs(
    world: World, forgery: Forgery
) -> None:
    """pg_restore's leader then says no more than that a worker died; as it does of one that was killed."""
    (name,) = (m["name"] for m in forgery.members if m["table"] and m["table"]["name"] == "small")
    forgery.edit(name, lambda rows: rows.replace(b"77\n", b"no number\n"))
    uri = forgery.seal()
    for jobs in (1, 2):
        assert world.verify(uri, jobs=jobs).verification.outcome == "failed"


@pytest.mark.parametrize("name", [b"../../../etc/passwd", b"/etc/passwd", b"blob_4711.dat/../x", b"toc.dat"])
def test_a_large_object_whose_data_is_a_file_of_the_worker_is_refused(
    forgery: Forgery, assert_refused: Callable, name: bytes
) -> None:
    (listed,) = (m["name"] for m in forgery.members if m["name"].endswith(".toc"))
    forgery.edit(listed, lambda names: names.replace(b"blob_4711.dat", name))
    assert_refused("a large object from a file", forgery.seal(), "names no large object")


def test_a_list_of_large_objects_in_another_place_is_refused(forgery: Forgery, assert_refused: Callable) -> None:
    (listed,) = (m["name"].encode() for m in forgery.members if m["name"].endswith(".toc"))
    forgery.edit("toc.dat", lambda toc: toc.replace(text_of(listed), text_of(b"2.dat")))
    assert_refused("a list from a file", forgery.seal(), "names the file '2.dat'")


def large_bomb(forgery: Forgery, name: str) -> tuple[str, bytes]:
    """A run that is one chunk, and a member that consists of it."""
    data, member = bomb(), forgery.member(name)
    extent = member["extents"][0]
    member["raw_bytes"] = 1 << 20
    member["extents"] = [
        {**extent, "offset": 0, "sha256": ["0" * 64], "raw_bytes": [1 << 20], "stored_bytes": [len(data)]}
    ]
    return extent["key"], data


@functools.cache
def bomb(beginning: bytes = b"") -> bytes:
    """Many gigabytes in little."""
    compressor = zstd.ZstdCompressor(level=1)
    zeros = bytes(1 << 24)
    pieces = [compressor.compress(beginning), *(compressor.compress(zeros) for _ in range(4 * GIB // len(zeros)))]
    return b"".join(pieces) + compressor.flush()


BOMBS = {
    "a large member": "is longer than the",
    "a pack of zeros": "goes on behind its end",
    "a member in a pack": "is longer than the",
    "a pack that goes on": "goes on behind its end",
}


@pytest.mark.parametrize(("what", "verb"), combine(BOMBS, ["restore", "checksum"], name="bombs"))
def test_a_bomb_goes_off_within_the_manifests_sizes(
    world: World, forgery: Forgery, new_live: Callable[[], str], tmp_path: Path, what: str, verb: str
) -> None:
    (large,) = (m["name"] for m in forgery.members if m["table"] and m["table"]["name"] == "large")
    key, members = forgery.pack_of("toc.dat")
    toc = members["toc.dat"]
    whole = tar_header("toc.dat", len(toc)) + toc + tar_padding(len(toc)) + bytes(1024)
    forgery.put(*{
        "a large member": lambda: large_bomb(forgery, large),
        "a pack of zeros": lambda: (key, bomb()),
        "a member in a pack": lambda: (key, bomb(tar_header("toc.dat", 8 * GIB - 1))),
        "a pack that goes on": lambda: (key, bomb(whole)),
    }[what]())  # fmt: skip
    uri = forgery.seal()
    given = (
        ("restore", world.replace_arguments(new_live(), uri))
        if verb == "restore"
        else ("verification", {**world.verify_arguments(uri), "server": None, "level": "checksum"})
    )
    if given[1].get("server", 0) is None:
        del given[1]["server"]
    spool = tmp_path / "spool"
    spool.mkdir()
    with Task(world, given[0], given[1], spool_dir=spool) as task:
        ended = task.end()
    TALLY.count("hostile backup", f"a bomb: {what}", "refused")
    if verb == "restore":
        assert (ended["end"], BOMBS[what] in ended["text"]) == ("clear failure", True), ended
    else:
        assert (ended["end"], ended["text"]) == ("success", "failed")
    assert ended["peak_kib"] < MEMORY_MIB << 10


@pytest.mark.parametrize("major", [15, 16, 18])
def test_all_names_in_real_archives_are_known(
    cluster_of: Callable[[int], Cluster], hard_database: Callable[[Cluster], str], tmp_path: Path, major: int
) -> None:
    cluster = cluster_of(major)
    cluster.run("pg_dump", "-Fd", "-Z0", "-f", tmp_path / "archive", dbname=hard_database(cluster))
    files = {path.name for path in (tmp_path / "archive").iterdir()}
    named = {entry.file for entry in read_folder(tmp_path / "archive").entries if entry.file}
    assert named == {name for name in files if name != "toc.dat" and not name.startswith("blob_")}


def test_a_toc_that_ends_anywhere_or_is_of_tomorrow_is_refused(pg18: Cluster, tmp_path: Path) -> None:
    toc = dump_toc(pg18, tmp_path)
    for length in range(len(toc)):
        with pytest.raises(IntegrityError):
            parse_toc(toc[:length])
    with pytest.raises(PgS3Error, match=r"version 1\.17.*upgrade"):
        parse_toc(toc[:6] + b"\x11" + toc[7:])


def dump_toc(cluster: Cluster, folder: Path) -> bytes:
    cluster.run("pg_dump", "-Fd", "-Z0", "-f", folder / "small", dbname="postgres")
    return (folder / "small/toc.dat").read_bytes()
