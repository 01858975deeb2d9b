"""A tar of a directory archive is unpacked by names that pg_dump gives, and leads nowhere else."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.restore.external.completeness import NotAnArchive
from airflow_pg_s3.core.restore.external.untar import unpack_directory

MEMBERS = {"toc.dat": b"PGDMP", "1.dat.gz": b"x" * 1000, "blob_7.dat.zst": b"", "blobs_9.toc": b"7 blob_7.dat\n"}


def packed(members, form=tarfile.GNU_FORMAT, **attributes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpack(data, folder, size=1000):
    return unpack_directory((data[start : start + size] for start in range(0, len(data), size)), folder)


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1 << 20])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("parent", ["", "./", "x" * 80 + "/", "ünï/" + "y" * 50 + "/"])
def test_members_are_unpacked_from_any_folder(tmp_path, parent, form, size):
    total = unpack(packed({parent + name: content for name, content in MEMBERS.items()}, form), tmp_path, size)
    assert read(tmp_path) == MEMBERS
    assert total == sum(map(len, MEMBERS.values()))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(tmp_path, form):
    unpack(packed({"z" * 200 + "/" + name: content for name, content in MEMBERS.items()}, form), tmp_path)
    assert read(tmp_path) == MEMBERS


def test_what_pg_dump_does_not_write_is_left_out(tmp_path):
    others = {"._toc.dat": b"1", "README": b"2" * 5000, "x/notes.txt": b"3", "toc.dat.bak": b""}
    unpack(packed(others | MEMBERS | {"last": b"4"}), tmp_path)
    assert read(tmp_path) == MEMBERS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed({"a/../../1.dat": b""}), "leads out"),
        (packed({"/1.dat": b""}), "leads out"),
        (packed({"/1.dat": b""}, tarfile.PAX_FORMAT, pax_headers={"path": "/etc/1.dat"}), "leads out"),
        (packed({"1.dat": b""}, tarfile.PAX_FORMAT, pax_headers={"size": "-5"}), "size"),
        (packed({"1.dat": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd"), "neither"),
        (packed({"1.dat": b""}, type=tarfile.LNKTYPE, linkname="/etc/passwd"), "neither"),
        (packed({"1.dat": b""}, type=tarfile.BLKTYPE), "neither"),
        (packed({"1.dat": b""}, type=tarfile.FIFOTYPE), "neither"),
        (packed({"1.dat": b""}, type=tarfile.GNUTYPE_SPARSE), "neither"),
        (packed({"a/1.dat": b"", "b/2.dat": b""}), "two folders"),
        (packed({"a/1.dat": b""})[:1024] + packed({"a/1.dat": b""}), "ends|toc.dat|twice"),
        (packed({"README": b""}), "without a toc.dat"),
    ],
)
def test_hostile_and_other_archives_are_refused(tmp_path, data, message):
    with pytest.raises((IntegrityError, NotAnArchive), match=message):
        unpack(data, tmp_path)


def test_a_member_that_comes_twice_is_refused(tmp_path):
    one = packed({"toc.dat": b"1"})[:1024]
    with pytest.raises(IntegrityError, match="twice"):
        unpack(one + packed({"toc.dat": b"2"}), tmp_path)


def test_a_member_without_room_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(InputError, match="room"):
        unpack(header_of_size(1 << 50), tmp_path)
    assert read(tmp_path) == {}


def header_of_size(size):
    info = tarfile.TarInfo("1.dat")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_a_large_extended_header_is_refused_before_it_is_read(tmp_path):
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    info.size = 1 << 40
    with pytest.raises(IntegrityError, match="extended header"):
        unpack(info.tobuf(tarfile.GNU_FORMAT), tmp_path)


def test_every_truncation_is_noticed(tmp_path):
    data = packed(MEMBERS)
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for length in range(0, end, 97):
        folder = tmp_path / str(length)
        folder.mkdir()
        with pytest.raises(IntegrityError, match="ends too early"):
            unpack(data[:length], folder)


@given(flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=20))
def test_damage_gives_only_our_errors(tmp_path_factory, flips):
    data = bytearray(packed(MEMBERS, tarfile.PAX_FORMAT, pax_headers={"comment": "ü" * 30}))
    for position, byte in flips:
        data[position % len(data)] = byte
    folder = tmp_path_factory.mktemp("fuzz")
    with contextlib.suppress(IntegrityError, InputError):
        unpack(bytes(data), folder)
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())


@given(noise=st.binary(max_size=400))
def test_any_extended_header_gives_only_our_errors(tmp_path_factory, noise):
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    info.size = len(noise)
    data = info.tobuf() + noise + bytes(-len(noise) % 512) + packed(MEMBERS)
    with contextlib.suppress(IntegrityError, InputError):
        unpack(data, tmp_path_factory.mktemp("fuzz"))
