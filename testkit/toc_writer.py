"""Writes tables of contents: valid ones, and some that pg_dump would never write."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence

from airflow_pg_s3.core.postgres.archive.toc import Entry

CUSTOM, TAR = 1, 3
ENCODING = b"SET client_encoding = 'UTF8';\n"


def number(value: int) -> bytes:
    """Encode an integer."""
    return bytes([value < 0]) + abs(value).to_bytes(4, "little")


def text(value: bytes | None) -> bytes:
    """Encode a string; None is NULL."""
    return number(-1) if value is None else number(len(value)) + value


def entry(
    dump_id: int,
    kind: bytes | None,
    name: bytes | None,
    *,
    version: int = 16,
    archive: int = TAR,
    has_data: int = 0,
    catalog_oid: bytes = b"0",
    oid: bytes = b"0",
    section: int = 2,
    definition: bytes | None = b"",
    drop: bytes | None = b"",
    copy: bytes | None = None,
    schema: bytes | None = None,
    tablespace: bytes | None = None,
    access_method: bytes | None = None,
    relkind: int = 0,
    owner: bytes | None = b"postgres",
    with_oids: bytes | None = b"false",
    dependencies: Iterable[bytes] = (),
    file: bytes | None = b"",
    place: bytes = bytes([3]) + bytes(8),
) -> bytes:
    """Encode one entry.

    :param version: minor version of the format.
    :param place: position of the data in a custom archive.
    """
    head = number(dump_id) + number(has_data) + b"".join(map(text, (catalog_oid, oid, name, kind)))
    sql = b"".join(map(text, (definition, drop, copy, schema, tablespace, access_method)))
    kept = number(relkind) if version >= 16 else b""
    rest = b"".join(map(text, (owner, with_oids, *dependencies, None)))
    return head + number(section) + sql + kept + rest + (place if archive == CUSTOM else text(file))


def table_of_contents(
    *entries: bytes,
    version: int = 16,
    archive: int = TAR,
    encoding: bytes = ENCODING,
    count: int | None = None,
    sizes: Sequence[int] = (4, 8),
) -> bytes:
    """Return a complete table of contents, with the encoding's entry first.

    :param version: minor version of the format.
    :param count: number of entries that it claims to have; None for the true number.
    :param sizes: sizes in bytes of integers and offsets.
    """
    every = [entry(1, b"ENCODING", b"ENCODING", definition=encoding, version=version, archive=archive), *entries]
    head = b"PGDMP" + bytes([1, version, 0, *sizes, archive])
    compression = b"\0" if version >= 15 else number(0)
    names = text(b"shop") + text(b"18.4") + text(b"18.4")
    return (
        head
        + compression
        + number(0) * 7
        + names
        + number(len(every) if count is None else count)
        + b"".join(every)
    )


def in_tar(toc: bytes, *, name: str = "toc.dat", kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar archive that begins with a table of contents."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(toc), kind
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(toc))
    return packed.getvalue()


def listed(entry: Entry, codec: str) -> bytes:
    """Return an entry as ``pg_restore --list --verbose`` prints it."""
    words = [entry.kind, entry.schema or "-", entry.name, entry.owner]
    line = b"%d; %d %d " % (entry.dump_id, entry.catalog_oid, entry.oid)
    line += b" ".join(on_one_line(word, codec) for word in words) + b"\n"
    if entry.dependencies:
        line += b";\tdepends on: " + b" ".join(b"%d" % number for number in entry.dependencies) + b"\n"
    return line


def on_one_line(text: str, codec: str) -> bytes:
    """Encode a name as pg_restore prints it."""
    return text.replace("\n", " ").replace("\r", " ").encode(codec, errors="surrogateescape")
