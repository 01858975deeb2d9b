"""Whatever goes into a pipe comes out of it, however slowly it is read."""

import os
import random
import threading
import time

import pytest

from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.pipe import enlarge, read_all, write_all

DATA = random.Random(0).randbytes(5 << 20)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as reading, open(writer, "wb", buffering=0) as writing:
        yield reading, writing


def test_all_comes_through_to_a_reader_of_small_pieces(pipe):
    reading, writing = pipe
    enlarge(writing.fileno())
    os.set_blocking(writing.fileno(), False)
    found = []

    def read():
        while chunk := reading.read(4096):
            found.append(chunk)
            if len(found) % 200 == 0:
                time.sleep(0.001)

    thread = threading.Thread(target=read)
    thread.start()
    write_all(writing.fileno(), DATA)
    write_all(writing.fileno(), b"the end")
    writing.close()
    thread.join()
    assert b"".join(found) == DATA + b"the end"


def test_a_reader_that_leaves_is_noticed_by_whoever_waits_for_it(pipe):
    reading, writing = pipe
    enlarge(writing.fileno())
    os.set_blocking(writing.fileno(), False)
    threading.Timer(0.05, reading.close).start()
    with pytest.raises(BrokenPipeError):
        write_all(writing.fileno(), DATA)


def test_a_reader_that_stands_still_is_given_up_when_told_to(pipe):
    _, writing = pipe
    os.set_blocking(writing.fileno(), False)
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Cancelled):
        write_all(writing.fileno(), DATA, stop)


def test_all_is_read_in_order_and_to_the_end(pipe):
    reading, writing = pipe
    enlarge(reading.fileno())

    def write():
        for start in range(0, len(DATA), 8192):
            writing.write(DATA[start : start + 8192])
        writing.close()

    threading.Thread(target=write).start()
    assert b"".join(read_all(reading.fileno())) == DATA


def test_a_file_takes_all_as_well(tmp_path):
    with open(tmp_path / "file", "wb", buffering=0) as file:
        write_all(file.fileno(), DATA)
    assert (tmp_path / "file").read_bytes() == DATA
