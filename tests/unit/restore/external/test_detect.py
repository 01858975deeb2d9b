"""What an archive is shows in its first bytes; whatever else they are, the error is ours and says it."""

import contextlib
import gzip
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.client_versions import for_archive
from airflow_pg_s3.core.restore.external.completeness import NotAnArchive
from airflow_pg_s3.core.restore.external.decompress import Compression
from airflow_pg_s3.core.restore.external.detect import (
    LOOK_BYTES,
    Format,
    archive_version,
    compression_of,
    format_of,
    toc_in_tar,
)

HEADER = b"PGDMP\x01\x0f\x00\x04\x08"
CUSTOM, IN_TAR = HEADER + b"\x01\x01", HEADER + b"\x03\x00"
PLAIN = b"--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n"


def tar_of(name, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()[:LOOK_BYTES]


BY_PG_DUMP = {"uid": 0o4000, "gid": 0o2000}


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        (CUSTOM, Format.CUSTOM),
        (tar_of("toc.dat", IN_TAR, **BY_PG_DUMP), Format.TAR),
        (tar_of("toc.dat", IN_TAR), Format.DIRECTORY),
        (tar_of("./", type=tarfile.DIRTYPE), Format.DIRECTORY),
        (tar_of("x/1.dat", b"1\n"), Format.DIRECTORY),
        (PLAIN, Format.PLAIN),
        (PLAIN.replace(b"\n", b"\r\n"), Format.PLAIN),
        (b"\xef\xbb\xbf\n" + PLAIN, Format.PLAIN),
    ],
)
def test_a_format_is_told_by_its_first_bytes(beginning, expected):
    assert format_of(beginning) is expected


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        (IN_TAR, "toc.dat alone"),
        (b"", "empty"),
        (b"BZh9", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"PK\x03\x04", "zip"),
        (b"\xff\xfe-\0-\0", "UTF-16"),
        (b"<?xml", "XML"),
        (b'{"format": 1}', "JSON"),
        (b"select 1;", "text that does not begin"),
        (("é" * 3000).encode()[:4095], "text that does not begin"),
        (PLAIN.replace(b"database dump", b"database cluster dump"), "pg_dumpall"),
        (b"\0\1\2\3", "00 01 02 03"),
        (tar_of("toc.dat", b"", chksum=1)[:300] + b"x" * 300, "damaged"),
    ],
)
def test_what_is_something_else_is_named(beginning, message):
    with pytest.raises(NotAnArchive, match=message):
        format_of(beginning)


def test_content_is_never_named():
    with pytest.raises(NotAnArchive) as caught:
        format_of(b"password=secret\nmore of it\n")
    assert "secret" not in str(caught.value)


def test_compression_is_told_by_its_first_bytes():
    assert compression_of(gzip.compress(b"")) is Compression.GZIP
    assert compression_of(b"\x28\xb5\x2f\xfd") is Compression.ZSTD
    assert compression_of(b"\x50\x2a\x4d\x18") is Compression.ZSTD  # pzstd
    assert compression_of(CUSTOM) is Compression.NONE


def test_the_version_is_where_the_table_of_contents_is():
    assert archive_version(CUSTOM) == (1, 15)
    assert archive_version(toc_in_tar(tar_of("toc.dat", IN_TAR, **BY_PG_DUMP))) == (1, 15)
    with pytest.raises(NotAnArchive):
        archive_version(b"PGDMP\x01")


@given(st.one_of(st.binary(max_size=2000), st.binary(max_size=2000).map(lambda data: b"PGDMP" + data)))
def test_any_bytes_give_a_format_or_our_error(data):
    compression_of(data)
    with contextlib.suppress(NotAnArchive):
        format_of(data)
    with contextlib.suppress(NotAnArchive):
        archive_version(data)


@given(st.binary(min_size=512, max_size=512), st.integers(0, 511), st.integers(0, 255))
def test_any_tar_header_gives_a_format_or_our_error(noise, position, byte):
    header = bytearray(tar_of("toc.dat", IN_TAR, **BY_PG_DUMP))
    header[position] = byte
    for data in (bytes(header), noise[:257] + b"ustar" + noise[262:]):
        with contextlib.suppress(NotAnArchive):
            format_of(data)


# -- which pg_restore reads it ------------------------------------------------------------------------------------


@pytest.fixture
def tools_of(fake_program, monkeypatch):
    """Majors → the option that names their folders; nothing else is installed."""
    monkeypatch.setattr("airflow_pg_s3.core.postgres.client_versions.STANDARD_PLACES", ())

    def make(*majors):
        folders = [
            fake_program(f"echo 'pg_dump (PostgreSQL) {major}.1'", version=f"{major}.1").folder for major in majors
        ]
        return [str(folder) for folder in folders]

    return make


@pytest.mark.parametrize(
    ("version", "target", "installed", "chosen"),
    [
        ((1, 10), 130000, (13, 16), 13),
        ((1, 14), 150000, (13, 15, 16), 15),
        ((1, 15), 150000, (15, 16, 18), 16),
        ((1, 16), 160000, (16, 17, 18), 17),
        ((1, 16), 180000, (17, 18), 18),
        ((1, 17), 160000, (18, 19), 19),
    ],
)
def test_the_oldest_pg_restore_that_reads_the_archive_is_taken(tools_of, version, target, installed, chosen):
    found = for_archive(version, target_version=target, search=tools_of(*installed))
    assert found.major == chosen


@pytest.mark.parametrize(("version", "package"), [((1, 15), 16), ((1, 16), 17), ((1, 17), 19)])
def test_what_to_install_is_named(tools_of, version, package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=f"postgresql-client-{package}"):
        for_archive(version, target_version=150000, search=tools_of(15))
