"""Members are read while they are written, to their ends and no further, and the disk gets its space back."""

import contextlib
import ctypes
import errno
import os
import random
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from airflow_pg_s3.core.backup import spool as spool_module
from airflow_pg_s3.core.backup.spool import READ_BYTES, Spool
from airflow_pg_s3.core.errors import Cancelled, InputError, PgS3Error

BLOCK = 4096
noise = random.Random(0).randbytes(3 * READ_BYTES)


@pytest.fixture
def spool(tmp_path, cancel):
    spool = Spool(tmp_path, cancel=cancel)
    spool.archive.mkdir()
    return spool


@pytest.fixture
def create(spool):
    """Begin a member as pg_dump does; the open file."""
    with contextlib.ExitStack() as files:
        yield lambda name="5.dat": files.enter_context(open(spool.archive / name, "wb", buffering=0))


def members(spool):
    return {member.name: member for member in spool.look()}


def on_disk(path):
    return path.stat().st_blocks * 512


def in_background(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_there_is_nothing_before_pg_dump_has_made_its_folder(tmp_path, cancel):
    spool = Spool(tmp_path, cancel=cancel)
    assert spool.look() == []
    assert spool.used_bytes() == 0
    assert list(tmp_path.glob("probe*")) == []


def test_a_file_that_is_open_for_writing_is_not_closed(spool, create):
    file = create()
    file.write(b"x")
    for _ in range(5):
        assert not members(spool)["5.dat"].is_closed


def test_an_empty_file_is_closed_from_the_second_look_on_at_which_nobody_had_it_open(spool, create):
    create().close()
    assert not members(spool)["5.dat"].is_closed
    assert members(spool)["5.dat"].is_closed


def test_a_file_that_holds_something_has_been_open_and_is_closed_when_nobody_has_it_open(spool, create):
    with create() as file:
        file.write(b"x")
    assert members(spool)["5.dat"].is_closed


def test_a_file_that_is_opened_only_after_the_first_look_is_not_closed(spool, create):
    (spool.archive / "5.dat").touch()
    spool.look()
    file = create()
    for _ in range(3):
        assert not members(spool)["5.dat"].is_closed
    file.close()
    assert not members(spool)["5.dat"].is_closed
    assert members(spool)["5.dat"].is_closed


def test_a_file_that_another_process_writes_is_not_closed(spool):
    writer = subprocess.Popen(
        ["sh", "-c", "exec >5.dat; echo x; read _"], cwd=spool.archive, stdin=subprocess.PIPE
    )
    while not members(spool) or not members(spool)["5.dat"].size:
        time.sleep(0.005)
    assert not members(spool)["5.dat"].is_closed
    writer.communicate()
    spool.look()
    assert members(spool)["5.dat"].is_closed


def test_members_are_handed_out_closed_ones_first_and_only_until_they_are_assigned(spool, create):
    create("1.dat")
    create("2.dat").close()
    create("3.dat")
    spool.look()
    assert next(iter(members(spool))) == "2.dat"
    members(spool)["2.dat"].assigned = True
    assert set(members(spool)) == {"1.dat", "3.dat"}


@pytest.mark.parametrize("size", [0, 1, BLOCK, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, len(noise)])
def test_a_finished_member_is_read_whole(spool, create, size):
    with create() as file:
        file.write(noise[:size])
    assert b"".join(spool.read(members(spool)["5.dat"])) == noise[:size]
    spool.check_complete()


def test_a_member_is_read_while_it_grows_until_it_is_closed(spool, create):
    pieces = [noise[i : i + 9001] for i in range(0, 900_100, 9001)]

    def write():
        with create() as file:
            for number, piece in enumerate(pieces):
                file.write(piece)
                if number % 10 == 0:
                    time.sleep(0.002)

    writer = in_background(write)
    while not (found := members(spool)):
        pass
    assert b"".join(spool.read(found["5.dat"])) == b"".join(pieces)
    writer.join()
    spool.check_complete()


def test_reading_does_not_end_before_the_file_is_closed(spool, create):
    file = create()
    file.write(b"first")
    read = []
    reader = in_background(
        lambda: read.extend(spool.read(member)) if (member := members(spool)["5.dat"]) else None
    )
    reader.join(0.1)
    assert reader.is_alive()
    file.write(b" last")
    file.close()
    reader.join()
    assert b"".join(read) == b"first last"


def test_what_is_written_just_before_the_close_is_not_missed(spool, create, monkeypatch):
    # The file is empty at the first look of the reader, and closed with a row in it at the second.
    file = create()
    (member,) = spool.look()
    really = spool_module._has_no_writer

    def finish_now(path):
        if not file.closed:
            file.write(b"row\n")
            file.close()
        return really(path)

    monkeypatch.setattr(spool_module, "_has_no_writer", finish_now)
    assert list(spool.read(member)) == [b"row\n"]


def test_many_members_that_come_and_go_while_we_look_are_all_read(spool, create):
    def write():
        for number in range(300):
            with create(f"{number}.dat") as file:
                file.write(b"%d" % number)

    writer = in_background(write)
    read = {}
    while writer.is_alive() or len(read) < 300:
        for member in spool.look():
            if member.is_closed:
                member.assigned = True
                read[member.name] = b"".join(spool.read(member))
    assert read == {f"{number}.dat": b"%d" % number for number in range(300)}
    spool.check_complete()
    assert (spool.members_seen, spool.members_finished) == (300, 300)


@pytest.mark.parametrize("piece_bytes", [BLOCK, 5001, 100, 3 * BLOCK + 1])
def test_the_space_behind_the_reader_is_given_back_however_small_the_pieces(spool, create, piece_bytes):
    file = create()
    reader = spool.read(members(spool)["5.dat"])
    for start in range(0, 100 * piece_bytes, piece_bytes):
        file.write(noise[start : start + piece_bytes])
        assert next(reader) == noise[start : start + piece_bytes]
        assert on_disk(spool.archive / "5.dat") <= piece_bytes + 2 * BLOCK
    assert spool.can_punch_holes
    file.close()
    assert list(reader) == []
    assert (spool.archive.parent / "shipped/5.dat").stat().st_size == 100 * piece_bytes
    assert on_disk(spool.archive.parent / "shipped/5.dat") == 0


def test_a_member_out_of_the_way_is_not_looked_at_again(spool, create):
    create().close()
    assert list(spool.read(members(spool)["5.dat"])) == []
    assert spool.look() == []
    assert list(spool.archive.iterdir()) == []


def test_progress_counts_what_was_read(spool, create):
    for name in ("1.dat", "2.dat"):
        with create(name) as file:
            file.write(noise[: READ_BYTES + 5])
    found = members(spool)
    assert len(list(spool.read(found["1.dat"]))) == 2
    reader = spool.read(found["2.dat"])
    next(reader), next(reader)
    assert spool.shipped_bytes == READ_BYTES + 5 + READ_BYTES
    assert (spool.members_seen, spool.members_finished) == (2, 1)


def test_used_bytes_is_what_is_written_and_not_yet_read_in_whole_blocks(spool, create):
    big, small = create("1.dat"), create("2.dat")
    big.write(noise[: 2 * READ_BYTES])
    small.write(b"x")
    found = members(spool)
    assert spool.used_bytes() == 2 * READ_BYTES + BLOCK
    reader = spool.read(found["1.dat"])
    next(reader), next(reader)
    assert spool.used_bytes() == READ_BYTES + BLOCK
    small.close()
    assert list(spool.read(found["2.dat"])) == [b"x"]
    assert spool.used_bytes() == READ_BYTES


def test_a_reader_that_is_ahead_of_the_last_look_does_not_hide_what_others_have_unread(spool, create):
    ahead, behind = create("1.dat"), create("2.dat")
    behind.write(noise[:READ_BYTES])
    found = members(spool)
    ahead.write(noise)
    reader = spool.read(found["1.dat"])
    next(reader), next(reader), next(reader)
    assert spool.used_bytes() == READ_BYTES


@pytest.mark.parametrize("name", ["toc.dat", "blobs.toc", "blobs_2684.toc"])
def test_the_archives_lists_never_stop_pg_dump_as_they_are_read_only_when_it_has_ended(spool, create, name):
    create(name).write(noise)
    spool.look()
    assert spool.used_bytes() == 0


def test_a_member_that_nobody_has_read_is_an_error(spool, create):
    create().close()
    spool.look()
    with pytest.raises(PgS3Error, match=r"member 5\.dat was not shipped"):
        spool.check_complete()


def test_a_byte_that_comes_after_the_end_was_seen_is_an_error(spool, create, monkeypatch):
    monkeypatch.setattr(spool_module, "_has_no_writer", lambda path: True)
    file = create()
    file.write(b"early")
    assert list(spool.read(members(spool)["5.dat"])) == [b"early"]
    spool.check_complete()
    file.write(b"!")
    with pytest.raises(PgS3Error, match=r"member 5\.dat has 6 bytes, but 5 were shipped"):
        spool.check_complete()


def test_a_byte_that_comes_just_as_the_file_is_put_away_is_an_error_too(spool, create, monkeypatch):
    monkeypatch.setattr(spool_module, "_has_no_writer", lambda path: True)
    file = create()
    file.write(b"early")
    reader = spool.read(members(spool)["5.dat"])
    rename = os.rename

    def write_and_rename(source, target):
        file.write(b"!")
        rename(source, target)

    monkeypatch.setattr(spool_module.os, "rename", write_and_rename)
    assert list(reader) == [b"early"]
    with pytest.raises(PgS3Error, match=r"member 5\.dat has 6 bytes, but 5 were shipped"):
        spool.check_complete()


def test_when_pg_dump_has_exited_all_members_count_as_closed(spool, create):
    # A worker that is being killed may still have a file open.
    create().write(b"x")
    spool.all_closed()
    spool.look()
    (member,) = spool.look()
    assert member.is_closed
    assert list(spool.read(member)) == [b"x"]


def test_whoever_waits_for_pg_dump_can_be_told_to_stop(spool, create, cancel):
    create().write(b"x")
    reader = spool.read(members(spool)["5.dat"])
    assert next(reader) == b"x"
    threading.Timer(0.05, cancel.set).start()
    with pytest.raises(Cancelled, match=r"5\.dat"):
        next(reader)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_holes_members_are_read_all_the_same(spool, create, monkeypatch, number):
    monkeypatch.setattr(spool_module, "_libc", failing_libc(number))
    with create() as file:
        file.write(noise)
    assert b"".join(spool.read(members(spool)["5.dat"])) == noise
    assert not spool.can_punch_holes
    spool.check_complete()
    assert on_disk(spool.archive.parent / "shipped/5.dat") == 0


def test_a_disk_that_fails_is_an_error(spool, create, monkeypatch):
    monkeypatch.setattr(spool_module, "_libc", failing_libc(errno.EIO))
    with create() as file:
        file.write(noise)
    with pytest.raises(OSError, match=r"5\.dat") as caught:
        list(spool.read(members(spool)["5.dat"]))
    assert caught.value.errno == errno.EIO


def failing_libc(number):
    def fallocate64(*_):
        ctypes.set_errno(number)
        return -1

    return SimpleNamespace(fallocate64=fallocate64)


def refusing(number):
    def fcntl(*_):
        raise OSError(number, os.strerror(number))

    return fcntl


@pytest.mark.parametrize(
    "fcntl",
    [
        pytest.param(refusing(errno.EINVAL), id="there are none"),
        pytest.param(refusing(errno.EOPNOTSUPP), id="they are not supported"),
        pytest.param(refusing(errno.EAGAIN), id="they are always refused"),
        pytest.param(lambda *_: 0, id="they do not see writers"),
    ],
)
def test_a_filesystem_whose_leases_are_of_no_use_is_refused_and_named(tmp_path, cancel, monkeypatch, fcntl):
    folder = tmp_path / "spool_dir/workspace/spool"
    folder.mkdir(parents=True)
    monkeypatch.setattr(spool_module.fcntl, "fcntl", fcntl)
    with pytest.raises(InputError, match=r"without file leases .*choose a folder on a local disk") as caught:
        Spool(folder, cancel=cancel)
    assert f"spool_dir {tmp_path}/spool_dir is on" in str(caught.value)
    assert not (folder / "probe").exists()
