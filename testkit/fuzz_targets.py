"""The code that reads untrusted input, as functions of bytes, which raise anything but our own errors.

``tests/unit/test_hostile_input.py`` calls them with inputs of hypothesis, testkit/fuzz_runner.py with those of
atheris.
"""

from __future__ import annotations

import contextlib
import functools
import getopt
import gzip
import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from backports import zstd
from psycopg.conninfo import conninfo_to_dict

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.postgres import client_options, client_versions, sql_text
from airflow_pg_s3.core.postgres.archive import table_data, toc
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.record import sealed
from airflow_pg_s3.core.repository import manifest as manifests
from airflow_pg_s3.core.repository import verification_record
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.manifest import parse_run_key
from airflow_pg_s3.core.repository.members import parse_members
from airflow_pg_s3.core.repository.pack import PackReader, tar_header, tar_padding
from airflow_pg_s3.core.repository.repository import Repository, StoredManifest
from airflow_pg_s3.core.restore.external import detect
from airflow_pg_s3.core.restore.external.decompress import Compression, unwrap
from airflow_pg_s3.core.restore.external.untar import unpack_directory
from testkit import toc_writer as written
from testkit.postgres import installations
from testkit.toc_writer import CUSTOM, TAR

OUTPUT_LIMIT = 1 << 22
KEYS_LIMIT = 1000
BACKUP_ID = "20261122T030000Z-5f3a9c"


def manifest(data: bytes) -> None:
    """A manifest that is accepted names nothing outside its backup, whoever sealed it."""
    text = data.decode(errors="replace").rstrip()
    for form in (data, sealed(text)):
        try:
            read = manifests.parse(form, where="s3://b/k.json")
        except (InputError, IntegrityError):
            continue
        for key in islice(read.object_keys(), KEYS_LIMIT):
            folder, _, name = key.partition("/")
            assert folder == read.backup_id or parse_run_key(key), key
            assert name, key
            assert Path(name).name == name, key
        assert manifests.parse(read.to_json(), where="s3://b/k.json") == read


def members_file(data: bytes) -> None:
    """Names and keys of members stay within what their manifest names, whoever wrote it."""
    packed = zstd.compress(data)
    for form, raw_bytes in ((data, len(data)), (packed, len(data))):
        record = {
            "stored_bytes": len(form), "raw_bytes": raw_bytes, "sha256": hashlib.sha256(form).hexdigest()
        }  # fmt: skip
        manifest: Any = SimpleNamespace(
            members_key="id/members.json.zst",
            members=SimpleNamespace(**record),
            packs=[SimpleNamespace(key=f"{BACKUP_ID}/pack-0001.tar.zst")],
            refers_to_run=lambda key: key == f"{BACKUP_ID}/000001.zst",
        )
        with contextlib.suppress(IntegrityError):
            for member in parse_members(manifest, form):
                assert Path(member.name).name == member.name, member.name
                assert not member.name.startswith((".", "-")), member.name
                assert {chunk.key for chunk in member.chunks} <= {f"{BACKUP_ID}/000001.zst"}


def evidence_object(data: bytes) -> None:
    """An object in the place of a verification record is one of this backup, or ignored."""
    manifest: Any = SimpleNamespace(backup_id=BACKUP_ID)
    for form in (data, sealed(data.decode(errors="replace").rstrip())):
        answer = {"Body": SimpleNamespace(read=lambda form=form: form), "ContentLength": len(form), "ETag": '"1"'}
        client: Any = SimpleNamespace(get_object=lambda answer=answer, **_: answer)
        found = verification_record.read_evidence(client, "b", StoredManifest(manifest, "", "0" * 64))
        assert found is None or found.backup_id == manifest.backup_id


def foreign_format(data: bytes) -> None:
    """The format of any bytes is detected or refused."""
    with contextlib.suppress(InputError, IntegrityError):
        detect.compression_of(data)
    with contextlib.suppress(InputError, IntegrityError):
        detect.format_of(data)
    with contextlib.suppress(InputError, IntegrityError):
        detect.archive_version(data)


def compressed(data: bytes) -> None:
    """Compressed data is unpacked in pieces, to its end or to one of our errors."""
    for compression in Compression:
        unpacked = 0
        with contextlib.suppress(IntegrityError, InputError):
            for piece in unwrap(_chunks(data), compression):
                unpacked += len(piece)
                if unpacked > OUTPUT_LIMIT:
                    break


def stored_object(data: bytes) -> None:
    """A member of a backup is decoded, or refused."""
    with contextlib.suppress(IntegrityError):
        Decoder(None, ()).decode(_chunks(data), lambda _: None)


def directory_in_tar(data: bytes) -> None:
    """Only members of an archive are written, into the folder itself."""
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer, "inner")
        folder.mkdir()
        with contextlib.suppress(IntegrityError, InputError):
            unpack_directory(_chunks(data), folder)
        assert os.listdir(outer) == ["inner"]
        for path in folder.iterdir():
            assert path.is_file(), path
            assert not path.is_symlink(), path


def pack(data: bytes) -> None:
    """A pack is read as members, or refused."""
    names = []

    def open_member(name: str, size: int) -> io.BytesIO:
        names.append((name, size))
        return io.BytesIO()

    reader = PackReader(open_member)
    with contextlib.suppress(IntegrityError):
        for chunk in _chunks(data):
            reader.write(chunk)
        reader.finish()
    assert all(size >= 0 for _, size in names)


def table_of_contents(data: bytes) -> None:
    """A table of contents that is accepted means the same to C, and names no file outside the archive."""
    with contextlib.suppress(IntegrityError, InputError):
        found = toc.parse_toc(data)
        assert len(found.by_id) == len(found.entries) > 0
        for entry in found.entries:
            assert "\0" not in entry.kind + entry.schema + entry.name + entry.owner + entry.file
            assert b"\0" not in entry.definition + entry.drop + entry.copy
            assert "/" not in entry.file, entry.file
            found.shown(entry.name).encode()
        toc.check_files(found)
        for name, table in table_data.tables_of_members(found).items():
            assert re.fullmatch(r"\d+\.dat", name), name
            assert all((table.schema, table.name, *table.columns))


def large_object_names(data: bytes) -> None:
    """In a list that is accepted, fgets and sscanf read only names that pg_dump writes."""
    names = toc.LargeObjectNames()
    with contextlib.suppress(IntegrityError):
        for chunk in _chunks(data):
            names.update(chunk)
        names.finish()
        assert all(re.fullmatch(rb"\d+ blob_\d+\.dat", line) for line in data.split(b"\n")[:-1]), data
        assert data.split(b"\n")[-1] == b"", data


def copy_command(data: bytes) -> None:
    """A COPY command that is accepted has the same names as the command that we build from it."""
    empty = toc.Entry(5, "TABLE DATA", "data", "", "", "", "", "", "", 0, 0, True, b"", b"", data, (), "5.dat")
    with contextlib.suppress(IntegrityError):
        target = table_data.copy_target(empty)
        again = target.command.replace(b" FROM STDIN", b"")
        if not target.columns:
            again += b" "
        assert table_data.copy_target(empty._replace(copy=again + b" FROM stdin;\n")) == target, data


def sql_script(data: bytes) -> None:
    """A script is split into statements and tokens, or ends too early."""
    text = data.decode(errors="replace")
    for backslashes in (False, True):
        with contextlib.suppress(IntegrityError):
            for statement in sql_text.split(text, backslashes=backslashes):
                sql_text.tokenize(statement, backslashes=backslashes)


@functools.cache
def _known_options() -> tuple[ClientTools, client_options._Known]:
    major, folder = max(installations().items())
    tools = ClientTools(major=major, version=f"{major}.0", folder=folder)
    return tools, client_options._known_options(tools, "pg_dump")


def user_options(data: bytes) -> None:
    """Options that are accepted mean the same to getopt, and none of them is refused."""
    words = [word.decode(errors="replace") for word in data.split(b"\n")]
    tools, known = _known_options()
    with mock.patch.object(client_options, "_known_options", return_value=known):
        try:
            given = client_options.check(words, tools=tools, program="pg_dump")
        except InputError:
            return
    short = "".join(k + ":" * known.takes_value[name] for k, name in known.long_of_short.items())
    long = [name + "=" * takes for name, takes in known.takes_value.items()]
    understood, stray = getopt.gnu_getopt(words, short, long)
    assert not stray, words
    meant = []
    for name, value in understood:
        full = name[2:] if name.startswith("--") else known.long_of_short[name[1:]]
        meant.append((client_options.newest(full), value if known.takes_value[full] else None))
    assert given == meant, words
    assert client_options.PG_DUMP_REFUSED.keys().isdisjoint(dict(given)), words


def connection(data: bytes) -> None:
    """A connection's values reach libpq unchanged, or are refused; secrets are only in files."""
    fields = [part.decode(errors="replace") for part in data.split(b"\xff")]
    database, keywords = fields[0], dict(zip(fields[1::2], fields[2::2], strict=False))
    secret = "c4nary"
    try:
        found = parameters(database=database, keywords={**keywords, "password": secret, "host": "h"})
    except InputError:
        return
    assert conninfo_to_dict(found.dbname_argument()) == {"dbname": found.database}
    with tempfile.TemporaryDirectory() as folder:
        try:
            environment = found.written_environment(Path(folder))
        except InputError:
            return
        assert not any(secret in value for value in environment.values())
        assert all(name.startswith("PG") or name in client_versions.environment() for name in environment), (
            environment
        )
        for path in Path(folder).iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def database_name(data: bytes) -> None:
    """A database's folder is one segment of the key, whatever the database's name."""
    name = data.decode(errors="replace")
    client: Any = SimpleNamespace()
    repository = Repository(client, "s3://bucket/p")
    base = repository.base(name)
    assert base.startswith("p/"), base
    assert base.endswith("/"), base
    assert "/" not in base[2:-1], base
    assert base[2:-1] not in (".", ".."), base


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        manifest,
        members_file,
        evidence_object,
        foreign_format,
        compressed,
        stored_object,
        directory_in_tar,
        pack,
        table_of_contents,
        large_object_names,
        copy_command,
        sql_script,
        user_options,
        connection,
        database_name,
    )
}


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 700):
        yield data[start : start + 700]


def _tar_of(*names: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    return packed.getvalue()


def _tocs() -> Iterator[bytes]:
    """Yield a table of contents with a table's data in each version and format."""
    for version in (14, 15, 16):
        for form in (TAR, CUSTOM):
            entry = written.entry(
                5,
                b"TABLE DATA",
                b"t",
                version=version,
                archive=form,
                has_data=1,
                section=3,
                schema=b"public",
                copy=b"COPY public.t (a) FROM stdin;\n",
                dependencies=[b"4"],
                file=b"5.dat",
            )
            whole = written.table_of_contents(entry, version=version, archive=form)
            yield whole
            yield written.in_tar(whole)


def _golden() -> list[bytes]:
    """Return the golden archives, written by pg_dump of each major version."""
    return [file.read_bytes() for file in sorted((Path(__file__).parents[1] / "tests/golden").glob("*.dat"))]


def _example() -> bytes:
    """Return the manifest in docs/format.md."""
    document = (Path(__file__).parents[1] / "docs/format.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", document, re.DOTALL)
    return str(example).encode()


# Well-formed inputs for each function, to begin with.
SEEDS: dict[str, list[bytes]] = {
    "manifest": [_example()],
    "members_file": [
        b'{"name": "toc.dat", "raw_bytes": 1, "pack": "%b/pack-0001.tar.zst", "sha256": "%b"}\n'
        b'{"name": "5.dat", "raw_bytes": 9, "extents": [{"key": "%b/000001.zst", "offset": 0, "sha256": ["%b"], '
        b'"raw_bytes": [9], "stored_bytes": [7]}]}\n'
        % (BACKUP_ID.encode(), b"0" * 64, BACKUP_ID.encode(), b"1" * 64)
    ],
    "evidence_object": [b'{"format": 1, "backup_id": "20261122T030000Z-5f3a9c"}'],
    "compressed": [gzip.compress(b"PGDMP" * 100), zstd.compress(b"PGDMP" * 100)],
    "stored_object": [zstd.compress(b"1\t2\n" * 100)],
    "directory_in_tar": [_tar_of("dump/toc.dat", "dump/1.dat"), _tar_of("toc.dat")],
    "table_of_contents": [*_tocs(), *_golden()],
    "large_object_names": [b"16395 blob_16395.dat\n16396 blob_16396.dat\n"],
    "pack": [tar_header("1.dat", 3) + b"abc" + tar_padding(3) + bytes(1024)],
    "user_options": [b"--no-owner", b"--table\norders", b"-vOx\n-t\na", b"--exclude-schema=x"],
    "connection": [
        b"shop\xffuser\xffdba\xffsslmode\xffrequire\xffoptions\xff-c x=y",
        b"dbname=x host=evil\xffservice\xffs",
    ],
    "database_name": [b"..", b"a/b", "ü%2F".encode()],
    "sql_script": [b"select 'a;b', $x$;$x$, \"c;\"; /* ; */ -- ;\nselect 2;"],
    "copy_command": [b'COPY public."t\xc3\xa4" (a, "b c") FROM stdin;\n', b"COPY public.t  FROM stdin;\n"],
    "foreign_format": [
        b"PGDMP\x01\x10\x00\x04\x08\x01",
        b"--\n-- PostgreSQL database dump\n--\n",
        b"\x1f\x8b\x08\x00",
    ],
}
