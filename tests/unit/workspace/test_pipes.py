"""Whatever goes into a pipe comes out of it."""

import os
import random
import threading

import pytest

from airflow_pg_s3.core.workspace.pipes import enlarge, read_all

DATA = random.Random(0).randbytes(5 << 20)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as reading, open(writer, "wb", buffering=0) as writing:
        yield reading, writing


def test_all_is_read_in_order_and_to_the_end(pipe):
    reading, writing = pipe
    enlarge(reading.fileno())

    def write():
        for start in range(0, len(DATA), 8192):
            writing.write(DATA[start : start + 8192])
        writing.close()

    threading.Thread(target=write).start()
    assert b"".join(read_all(reading.fileno())) == DATA
