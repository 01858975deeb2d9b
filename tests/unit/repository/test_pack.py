"""A pack is a tar archive that anybody reads; a hostile one is refused before it does anything."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.repository.pack import TAR_END, PackReader, pack_name, tar_header, tar_padding

BLOCK = tarfile.BLOCKSIZE
members = st.lists(
    st.tuples(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True), st.binary(max_size=1200)),
    max_size=6,
    unique_by=lambda member: member[0],
)


class Sink:
    """Keeps what it gets."""

    def __init__(self):
        self.content = b""
        self.is_closed = False

    def write(self, chunk):
        assert not self.is_closed
        self.content += chunk

    def close(self):
        assert not self.is_closed
        self.is_closed = True


def pack(contents):
    return b"".join(tar_header(n, len(c)) + c + tar_padding(len(c)) for n, c in contents) + TAR_END


def unpack(packed, chunk_bytes=1 << 20):
    """Take a pack apart; (name, announced size, content) of each member."""
    opened = []

    def open_member(name, size):
        opened.append((name, size, Sink()))
        return opened[-1][2]

    reader = PackReader(open_member)
    for start in range(0, len(packed), chunk_bytes):
        reader.write(packed[start : start + chunk_bytes])
    reader.finish()
    assert all(sink.is_closed for _, _, sink in opened)
    return [(name, size, sink.content) for name, size, sink in opened]


def entry(name="1.dat", size=0, **facts):
    """A header of our choice, with a right checksum."""
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in facts.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def with_size_field(text):
    """A header whose size field holds these 12 bytes, with a right checksum."""
    header = bytearray(entry(size=1))
    header[124:136] = text.ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@given(members)
def test_pythons_tarfile_reads_what_is_written(contents):
    with tarfile.open(fileobj=io.BytesIO(pack(contents)), mode="r:") as archive:
        assert [(i.name, archive.extractfile(i).read(), i.mode) for i in archive] == [
            (name, content, 0o600) for name, content in contents
        ]


@given(members, st.integers(1, 1500))
def test_a_pack_comes_apart_as_it_was_put_together_however_it_is_cut(contents, chunk_bytes):
    assert unpack(pack(contents), chunk_bytes) == [(name, len(content), content) for name, content in contents]


def test_a_pack_comes_apart_byte_by_byte():
    contents = [("1.dat", b"x" * 513), ("2.dat", b""), ("toc.dat", b"y" * 512)]
    assert unpack(pack(contents), 1) == [(name, len(content), content) for name, content in contents]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_padding_fills_the_last_block(size):
    assert (size + len(tar_padding(size))) % BLOCK == 0
    assert len(tar_padding(size)) < BLOCK


def test_members_without_bytes_are_opened_and_closed():
    contents = [("1.dat", b""), ("2.dat", b""), ("3.dat", b"x"), ("4.dat", b"")]
    assert unpack(pack(contents)) == [(name, len(content), content) for name, content in contents]


def test_an_empty_pack_holds_nothing():
    assert unpack(TAR_END) == []


def test_a_pack_made_by_the_tar_of_others_is_read():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("5.dat")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert unpack(buffer.getvalue()) == [("5.dat", 3, b"abc")]


@pytest.mark.parametrize(
    "facts",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "2.dat"},
        {"type": tarfile.DIRTYPE, "name": "folder/"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.BLKTYPE, "devmajor": 8},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.XHDTYPE, "size": 10},
        {"type": tarfile.GNUTYPE_LONGNAME, "size": 10},
        {"type": tarfile.AREGTYPE, "name": "folder/"},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"type": tarfile.CONTTYPE},
        {"type": b"Z"},
    ],
    ids=lambda facts: str(facts["type"]),
)
def test_what_is_no_plain_file_is_refused_before_anything_is_opened(facts):
    with pytest.raises(IntegrityError, match="is not a plain file"):
        unpack(entry(**facts) + TAR_END)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"x" * BLOCK, id="no header at all"),
        pytest.param(entry()[:-1] + b"x", id="a checksum that is wrong"),
        pytest.param(with_size_field(b"nonsense"), id="a size that is no number"),
        pytest.param(with_size_field(b"-0000000001"), id="a negative size"),
        pytest.param(with_size_field(b"\xff" * 12), id="a negative size in base 256"),
        pytest.param(
            entry("\udce4.dat".encode(errors="surrogateescape").decode("latin-1")), id="a name in Latin-1"
        ),
    ],
)
def test_a_damaged_header_is_refused_before_anything_is_opened(header):
    opened = []
    with pytest.raises(IntegrityError):
        PackReader(lambda name, size: opened.append(name) or Sink()).write(header + b"z" * 4 * BLOCK + TAR_END)
    assert opened == []


def test_an_absurd_size_waits_for_bytes_that_never_come():
    absurd = with_size_field(b"\x80" + b"\xff" * 11)
    with pytest.raises(IntegrityError, match="ends too early"):
        unpack(absurd + b"z" * 4 * BLOCK)


def test_a_pack_that_ends_anywhere_before_its_end_is_refused():
    packed = pack([("1.dat", b"x" * 700), ("2.dat", b"")])
    ended_at = len(packed) - BLOCK  # tar ends with two empty blocks; one is proof enough
    for length in range(ended_at):
        with pytest.raises(IntegrityError, match="ends too early"):
            unpack(packed[:length])
    unpack(packed[:ended_at])


@given(st.binary(max_size=3 * BLOCK))
def test_nothing_but_an_integrity_error_ever_comes_out(packed):
    with contextlib.suppress(IntegrityError):
        unpack(packed)


@given(st.integers(0, BLOCK - 1), st.integers(0, 255))
def test_no_damaged_byte_of_a_header_brings_anything_else_than_an_integrity_error(place, value):
    damaged = bytearray(pack([("1.dat", b"x" * 700), ("2.dat", b"y")]))
    damaged[place] = value
    with contextlib.suppress(IntegrityError):
        unpack(bytes(damaged))


@pytest.mark.parametrize("refuse", [IntegrityError("not in the manifest"), OSError(28, "disk full")])
def test_an_error_of_whoever_opens_a_member_comes_out(refuse):
    def open_member(name, size):
        raise refuse

    with pytest.raises(type(refuse)) as caught:
        PackReader(open_member).write(pack([("1.dat", b"x")]))
    assert caught.value is refuse


@pytest.mark.parametrize(
    ("number", "name"), [(1, "pack-0001.tar"), (9999, "pack-9999.tar"), (12345, "pack-12345.tar")]
)
def test_packs_are_named_in_order(number, name):
    assert pack_name(number) == name
