"""Detection of an archive's format by its first bytes; names prove nothing.

Sources: ``ReadHead`` in PostgreSQL's pg_backup_archiver.c for ``PGDMP``, ``tarCreateHeader`` in its tar.c, POSIX
ustar, RFC 1952 (gzip), RFC 8878 (zstd).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.reporting import human
from airflow_pg_s3.core.repository.repository import LIST_THEM
from airflow_pg_s3.core.restore.external.completeness import NotAnArchive
from airflow_pg_s3.core.restore.external.decompress import Compression, unwrap
from airflow_pg_s3.core.s3.errors import explain_unreadable, unreachable
from airflow_pg_s3.core.s3.requests import StoredObject, get_object, parse_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


# How many of an archive's first bytes are read to detect what it is.
LOOK_BYTES = 4096
_ARCHIVE = b"PGDMP"
# The magic number of a frame, and that of a skippable frame, which is pzstd's first.
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
_BLOCK = tarfile.BLOCKSIZE
_FORMAT_CUSTOM = 1
# The owner and group in tar headers that pg_dump writes, and no other program.
_TAR_OWNER = (0o4000, 0o2000)
_PLAIN = re.compile(rb"(?:\xef\xbb\xbf)?\s*--\s*\n-- PostgreSQL database dump\r?\n")
_CLUSTER = re.compile(rb"(?:\xef\xbb\xbf)?\s*--\s*\n-- PostgreSQL database cluster dump\r?\n")
# Other files that turn up in buckets of backups.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip data within compressed data: unpack it once"),
    (b"\x28\xb5\x2f\xfd", "zstd data within compressed data: unpack it once"),
    (b"\x1f\x9d", "data of compress (.Z): unpack it first"),
    (b"BZh", "bzip2 data: unpack it first"),
    (b"\xfd7zXZ\0", "xz data: unpack it first"),
    (b"\x04\x22\x4d\x18", "lz4 data: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"age-encryption.org/v1", "data encrypted with age: decrypt it first"),
    (b"-----BEGIN AGE ENCRYPTED FILE", "data encrypted with age: decrypt it first"),
    (b"-----BEGIN PGP MESSAGE", "data encrypted with PGP: decrypt it first"),
    (b"Salted__", "data encrypted with openssl: decrypt it first"),
    (b"PGCOPY\n\xff\r\n\0", "the output of COPY in its binary format, which is one table's data alone"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\xff\xfe", "text in UTF-16, as PowerShell's > writes it: convert it to UTF-8 first"),
    (b"<", "XML or HTML, perhaps the error message of a download that failed"),
    (b"{", "JSON; the manifest of a backup has a key that ends in .json"),
)


class Format(Enum):
    """pg_dump's formats. DIRECTORY is a directory archive packed with tar."""

    CUSTOM = "custom"
    TAR = "tar"
    DIRECTORY = "directory"
    PLAIN = "plain"


def compression_of(beginning: bytes) -> Compression:
    """Detect the compression by an object's first four bytes."""
    if beginning.startswith(b"\x1f\x8b"):
        return Compression.GZIP
    if _ZSTD.match(beginning):
        return Compression.ZSTD
    return Compression.NONE


def format_of(beginning: bytes) -> Format:
    """Detect pg_dump's format by the first `LOOK_BYTES` of an archive, without compression.

    :raises NotAnArchive: the bytes are something else; the message says what.
    """
    if beginning.startswith(_ARCHIVE):
        if len(beginning) > 10 and beginning[10] != _FORMAT_CUSTOM:
            raise NotAnArchive("is a toc.dat alone: the table of contents of an archive, without its data")
        return Format.CUSTOM
    if beginning[257:262] == b"ustar":
        return _format_of_tar(beginning)
    if _PLAIN.match(beginning):
        return Format.PLAIN
    raise NotAnArchive(f"is {_describe(beginning)}")


def archive_version(toc: bytes) -> tuple[int, int]:
    """Read an archive's format version, which decides which pg_restore can read it.

    :param toc: the first bytes of a custom archive, or of a toc.dat.
    :raises NotAnArchive: the bytes are neither.
    """
    if not toc.startswith(_ARCHIVE) or len(toc) < len(_ARCHIVE) + 3:
        raise NotAnArchive("has no table of contents of pg_dump")
    return toc[5], toc[6]


def toc_in_tar(beginning: bytes) -> bytes:
    """Return the beginning of toc.dat, which is the first member of an archive in format tar."""
    return beginning[_BLOCK:]


def _format_of_tar(beginning: bytes) -> Format:
    try:
        first = tarfile.TarInfo.frombuf(beginning[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise NotAnArchive(f"is a tar archive whose first header is damaged: {error}") from error
    # A directory archive may begin with the same name and bytes, if its toc.dat was packed first.
    if first.name == "toc.dat" and (first.uid, first.gid) == _TAR_OWNER:
        return Format.TAR
    return Format.DIRECTORY


def _describe(beginning: bytes) -> str:
    if _CLUSTER.match(beginning):
        return "a dump of pg_dumpall, which changes roles and databases of the whole server: replay it with psql"
    for magic, what in _OTHERS:
        if beginning.startswith(magic):
            return what
    if not beginning:
        return "empty"
    # The message must not quote the content, which may be anybody's data.
    if b"\0" not in beginning and _is_text(beginning):
        return "text that does not begin as pg_dump's plain format does (-- PostgreSQL database dump)"
    return f"none of pg_dump's formats; it begins with the bytes {beginning[:8].hex(' ')}"


def _is_text(beginning: bytes) -> bool:
    try:
        # The last character may be incomplete.
        beginning[:-3].decode()
    except UnicodeDecodeError:
        return False
    return True


class ExternalArchive:
    """An object on S3 that is an archive of pg_dump.

    :param chunks: the object's bytes.
    :raises NotAnArchive: the object is something else.
    """

    def __init__(self, uri: str, stored: StoredObject, chunks: Iterator[bytes]) -> None:
        self.uri = uri
        self.name = stored.key.rpartition("/")[2]
        self.stored_bytes = stored.stored_bytes
        with self.about_it():
            first = next(chunks, b"")
            self.compression = compression_of(first)
            unwrapped = unwrap(chain([first], chunks), self.compression)
            pieces: list[bytes] = []
            while sum(map(len, pieces)) < LOOK_BYTES and (piece := next(unwrapped, None)) is not None:
                pieces.append(piece)
            self.beginning = b"".join(pieces)
            self.format = format_of(self.beginning[:LOOK_BYTES])
        self.chunks = chain([self.beginning], unwrapped)

    @property
    def description(self) -> str:
        """URI, size, format and compression, for the log."""
        around = "" if self.compression is Compression.NONE else f" in {self.compression.value}"
        return f"{self.uri} ({human(self.stored_bytes)}, format {self.format.value}{around})"

    @contextmanager
    def about_it(self) -> Iterator[None]:
        """Context manager: put the object's URI in front of errors about it."""
        try:
            yield
        except (NotAnArchive, IntegrityError) as error:
            raise type(error)(f"{self.uri}: {error}") from error


def find_object(client: S3Client, uri: str) -> StoredObject:
    """Ask S3 for an object's size.

    :raises InputError: there is no such object.
    :raises StorageError: S3 failed.
    """
    bucket, key = parse_uri(uri, parameter="backup")
    if not key or key.endswith("/"):
        raise InputError(f"backup must name a manifest or an archive, not the folder {uri!r}")
    try:
        # Not HeadObject: its errors come without a message.
        answer = get_object(client, Bucket=bucket, Key=key)
        answer["Body"].close()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            raise InputError(f"there is no backup or archive {uri}: {LIST_THEM}") from error
        raise explain_unreadable(error, bucket, key) from error
    except BotoCoreError as error:
        raise unreachable(error) from error
    return StoredObject(key=key, stored_bytes=answer["ContentLength"])
