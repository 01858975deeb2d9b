"""Objects are read to their last byte, over whatever breaks, or the error says why not."""

import contextlib
import random
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_pg_s3.core.errors import Cancelled, IntegrityError, StorageError
from airflow_pg_s3.core.s3 import download
from airflow_pg_s3.core.s3.download import ATTEMPTS, RANGES_AHEAD, Downloader, StoredRange
from airflow_pg_s3.core.s3.requests import StoredObject

RANGE = 100_000
whole = random.Random(0).randbytes(4 * RANGE + 1)
ERROR = "<Error><Code>{}</Code><Message>said the test</Message></Error>"


class Server(ThreadingHTTPServer):
    """S3's GetObject for some objects, which answers its n-th request (from 1) as `faults` says.

    A fault is a status, or a function that is called with the handler, its whole answer and a range of it.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = {"5.dat": whole}
        self.faults = {}
        self.always = None
        self.asked = []
        self.lock = threading.Lock()

    def handle_error(self, *_):
        """Whoever breaks connections on purpose needs no report."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        key = self.path.partition("?")[0].rpartition("/")[2]
        start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        with self.server.lock:
            self.server.asked.append((key, start, end + 1, self.headers["If-Match"]))
            fault = self.server.faults.get(len(self.server.asked), self.server.always)
        content = self.server.objects.get(key)
        if isinstance(fault, tuple):
            self.refuse(*fault)
        elif content is None:
            self.refuse(404, "NoSuchKey")
        elif start >= len(content):
            self.refuse(416, "InvalidRange")
        elif self.headers["If-Match"] not in (None, etag_of(content)):
            self.refuse(412, "PreconditionFailed")
        else:
            body = content[start : end + 1]
            self.begin(content, start, len(body))
            if fault is None:
                self.wfile.write(body)
            else:
                fault(self, body)

    def begin(self, content, start, length):
        self.send_response(206)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Range", f"bytes {start}-{start + length - 1}/{len(content)}")
        self.send_header("ETag", etag_of(content))
        self.end_headers()

    def refuse(self, status, code):
        body = ERROR.format(code).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def etag_of(content):
    return f'"{hash(content) & 0xFFFFFFFF:08x}"'


def ends_after(count):
    """The answer ends there, although it announced more."""

    def fault(handler, body):
        handler.wfile.write(body[:count])
        handler.close_connection = True

    return fault


def is_reset_after(count):
    def fault(handler, body):
        handler.wfile.write(body[:count])
        handler.wfile.flush()
        time.sleep(0.02)  # what was sent must arrive before the reset does
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True

    return fault


SLOW_DOWN = (503, "SlowDown")


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def downloader(server, new_s3_client, cancel):
    with contextlib.ExitStack() as stack:

        def make(threads=1, **config):
            client = new_s3_client(f"http://127.0.0.1:{server.server_address[1]}", **config)
            return stack.enter_context(
                Downloader(client, "bucket", cancel=cancel, threads=threads, range_bytes=RANGE)
            )

        yield make


def stored(key="5.dat", size=None):
    return StoredObject(key=key, stored_bytes=len(whole) if size is None else size)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("size", [1, RANGE - 1, RANGE, RANGE + 1, 3 * RANGE, 4 * RANGE + 1])
def test_an_object_is_read_in_ranges_and_in_order(downloader, server, threads, size):
    server.objects["5.dat"] = whole[:size]
    ours = downloader(threads)
    pieces = list(ours.stream([stored(size=size)]))
    assert b"".join(pieces) == whole[:size]
    assert ours.read_bytes == size
    assert sorted((start, end) for _, start, end, _ in server.asked) == [
        (start, min(start + RANGE, size)) for start in range(0, size, RANGE)
    ]


def test_objects_are_read_one_after_the_other(downloader, server):
    server.objects |= {"5.dat.001": whole[:5], "5.dat.002": whole[: RANGE + 1]}
    objects = [stored(), stored("5.dat.001", 5), stored("5.dat.002", RANGE + 1)]
    assert b"".join(downloader(4).stream(objects)) == whole + whole[:5] + whole[: RANGE + 1]


def test_a_small_object_is_read_whole(downloader, server):
    server.objects["small"] = b"data"
    assert downloader().read(stored("small", 4)) == b"data"


def test_nothing_is_fetched_before_it_is_asked_for_and_then_not_much_ahead(downloader, server):
    server.objects["big"] = bytes(20 * RANGE)
    stream = downloader(4).stream([stored("big", 20 * RANGE)])
    assert server.asked == []
    next(stream)
    time.sleep(0.05)
    assert len(server.asked) <= RANGES_AHEAD + 1
    stream.close()


class TestRanges:
    def test_come_in_order_each_whole_and_with_what_was_given_along(self, downloader, server):
        server.objects["6.zst"] = whole[::-1]
        wanted = [
            (StoredRange("5.dat", 10, 20), "a"),
            (StoredRange("6.zst", 0, RANGE + 1), "b"),
            (StoredRange("5.dat", len(whole) - 1, len(whole)), "c"),
        ]
        assert list(downloader(4).ranges(wanted)) == [
            ("a", whole[10:20]),
            ("b", whole[::-1][: RANGE + 1]),
            ("c", whole[-1:]),
        ]
        assert len(server.asked) == 3

    def test_are_taken_no_further_ahead_than_their_bytes_allow(self, downloader, server):
        taken = []

        def wanted():
            for start in range(0, 4 * RANGE, RANGE // 2):
                taken.append(start)
                yield StoredRange("5.dat", start, start + RANGE // 2), None

        ranges = downloader().ranges(wanted())
        next(ranges)
        assert len(taken) == 2 * RANGES_AHEAD + 1
        ranges.close()

    def test_are_bounded_in_number_where_they_are_short(self, downloader, server):
        taken = []

        def wanted():
            for start in range(1000):
                taken.append(start)
                yield StoredRange("5.dat", start, start + 1), None

        ranges = downloader().ranges(wanted())
        next(ranges)
        assert len(taken) == download._MOST_REQUESTS_AHEAD + 1
        ranges.close()

    def test_behind_the_end_of_their_object_are_an_error(self, downloader, server):
        with pytest.raises(IntegrityError, match=rf"5\.dat has {len(whole)} bytes, but at least {len(whole) + 1}"):
            list(downloader().ranges([(StoredRange("5.dat", 10, len(whole) + 1), None)]))
        with pytest.raises(IntegrityError, match=rf"5\.dat is shorter than the {len(whole) + 2} bytes"):
            list(downloader().ranges([(StoredRange("5.dat", len(whole), len(whole) + 2), None)]))
        with pytest.raises(IntegrityError, match=r"^6\.zst is missing$"):
            list(downloader().ranges([(StoredRange("6.zst", 0, 1), None)]))


@pytest.mark.parametrize("broken", [ends_after, is_reset_after])
@pytest.mark.parametrize("count", [0, 1, RANGE // 2, RANGE - 1])
def test_a_broken_range_goes_on_where_it_stopped(downloader, server, broken, count):
    server.faults[2] = broken(count)
    assert b"".join(downloader().stream([stored()])) == whole
    assert server.asked[1][:3] == ("5.dat", RANGE, 2 * RANGE)
    # What the reset overtook is asked for again.
    key, start, end, if_match = server.asked[2]
    assert (key, end, if_match) == ("5.dat", 2 * RANGE, etag_of(whole))
    assert RANGE <= start <= RANGE + count
    if broken is ends_after:
        assert start == RANGE + count


def test_every_later_request_is_for_the_same_object_as_the_first(downloader, server):
    list(downloader().stream([stored()]))
    assert [if_match for *_, if_match in server.asked] == [None, *[etag_of(whole)] * 4]


def test_each_object_is_matched_with_its_own_etag(downloader, server):
    server.objects["5.dat.001"] = whole[: RANGE + 1]
    list(downloader().stream([stored(), stored("5.dat.001", RANGE + 1)]))
    assert [if_match for key, *_, if_match in server.asked if key == "5.dat.001"] == [
        None,
        etag_of(whole[: RANGE + 1]),
    ]


@pytest.mark.parametrize("fault", [SLOW_DOWN, (500, "InternalError"), ends_after(0), is_reset_after(0)])
def test_a_range_that_is_stuck_is_given_up_after_some_attempts(downloader, server, fault):
    server.objects["5.dat"] = b"data"
    server.always = fault
    with pytest.raises(StorageError, match=r"reading 5\.dat failed at byte 0: "):
        downloader().read(stored(size=4))
    assert len(server.asked) == ATTEMPTS


def test_a_range_that_makes_progress_is_not_given_up(downloader, server):
    server.faults = {number: ends_after(1) if number % 2 else SLOW_DOWN for number in range(1, 4 * ATTEMPTS)}
    assert b"".join(downloader().stream([stored()])) == whole
    assert [start for _, start, *_ in server.asked[:6]] == [0, 1, 1, 2, 2, 3]


def test_progress_is_measured_by_each_range_alone(downloader, server):
    server.faults = {number: SLOW_DOWN for number in range(2, 2 + ATTEMPTS)}
    with pytest.raises(StorageError, match=f"failed at byte {RANGE}: "):
        list(downloader().stream([stored()]))


def test_each_failure_doubles_the_pause(downloader, server, cancel, monkeypatch):
    pauses = []
    monkeypatch.setattr(cancel, "wait", lambda seconds: pauses.append(seconds / download._FIRST_PAUSE_SECONDS))
    server.always = SLOW_DOWN
    with pytest.raises(StorageError):
        downloader().read(stored(size=10))
    assert pauses == pytest.approx([2, 4, 8, 16, 32])


@pytest.mark.parametrize("threads", [1, 3])
def test_an_object_that_changes_while_it_is_read_is_an_error(downloader, server, threads):
    def change(handler, body):
        handler.wfile.write(body)
        server.objects["5.dat"] = whole[::-1]

    server.faults[2] = change
    with pytest.raises(IntegrityError, match=r"5\.dat changed while it was being read"):
        list(downloader(threads).stream([stored()]))


def test_an_object_that_changes_under_the_first_requests_is_an_error(downloader, server):
    # They are sent together, before anybody knows the ETag.
    together = threading.Barrier(RANGES_AHEAD + 1, timeout=60)
    begin = Handler.begin

    def begin_together(handler, content, start, length):
        together.wait()
        begin(handler, content if start else content[::-1], start, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "begin", begin_together)
        with pytest.raises(IntegrityError, match=r"5\.dat changed while it was being read"):
            list(downloader(RANGES_AHEAD + 1).stream([stored(size=len(whole))]))
    # A fourth may have followed, with the ETag of the first answer.
    assert [if_match for *_, if_match in server.asked][: RANGES_AHEAD + 1] == [None] * (RANGES_AHEAD + 1)


def test_a_missing_object_is_an_error_at_once(downloader, server):
    with pytest.raises(IntegrityError, match=r"^6\.dat is missing$"):
        downloader().read(stored("6.dat", 10))
    assert len(server.asked) == 1


@pytest.mark.parametrize("size", [len(whole) - 1, len(whole) + 1, 10, len(whole) + RANGE])
def test_an_object_of_another_length_is_an_error(downloader, server, size):
    with pytest.raises(IntegrityError, match=rf"5\.dat has {len(whole)} bytes, but {size} were stored"):
        list(downloader().stream([stored(size=size)]))
    assert len(server.asked) <= RANGES_AHEAD + 1


def test_an_object_that_became_shorter_than_the_range_is_an_error(downloader, server):
    server.faults[1] = (416, "InvalidRange")
    with pytest.raises(IntegrityError, match=r"5\.dat is shorter than the 10 bytes stored"):
        downloader().read(stored(size=10))


@pytest.mark.parametrize("refusal", [(403, "AccessDenied"), (401, "Unauthorized"), (400, "InvalidRequest")])
def test_a_refusal_is_an_error_at_once(downloader, server, refusal):
    server.always = refusal
    with pytest.raises(StorageError, match=rf"S3 refused to read 5\.dat: .*{refusal[1]}.*said the test"):
        downloader().read(stored(size=10))
    assert len(server.asked) == 1


@pytest.mark.parametrize("start", [0, 7])
def test_a_store_that_sends_another_range_than_asked_for_is_an_error(downloader, server, start):
    def begin(handler, content, _start, _length):
        original(handler, content, start, len(content) - start)

    original = Handler.begin
    server.always = lambda handler, body: handler.wfile.write(whole[start:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "begin", begin)
        with pytest.raises(StorageError, match=rf"S3 sent bytes {start}-\d+ of 5\.dat, but was asked for 0-99999"):
            list(downloader().stream([stored()]))


def test_a_store_that_sends_the_whole_without_saying_so_is_believed_when_the_whole_was_asked_for(
    downloader, server
):
    server.objects["small"] = b"data"
    original = Handler.send_header
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Handler, "send_header", lambda self, k, v: None if k == "Content-Range" else original(self, k, v)
        )
        assert downloader().read(stored("small", 4)) == b"data"
        with pytest.raises((IntegrityError, StorageError)):
            list(downloader().stream([stored()]))


class TestCancelling:
    def test_while_a_body_comes_slowly(self, downloader, server, cancel, monkeypatch):
        def trickle(handler, body):
            for start in range(0, RANGE, 1000):
                handler.wfile.write(body[start : start + 1000])
                time.sleep(0.01)
                cancel.set()

        monkeypatch.setattr(download, "_BODY_READ_BYTES", 1000)
        server.always = trickle
        ours = downloader()
        with pytest.raises(Cancelled, match="stopped while downloading"):
            list(ours.stream([stored()]))
        assert ours.read_bytes < RANGE // 10

    def test_while_waiting_to_try_again(self, downloader, server, cancel, monkeypatch):
        monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 3600)
        server.always = SLOW_DOWN
        threading.Timer(0.1, cancel.set).start()
        with pytest.raises(Cancelled, match="stopped while downloading"):
            downloader().read(stored(size=10))

    def test_by_leaving_the_block_with_an_error(self, server, new_s3_client, cancel, monkeypatch):
        # Whoever sits the pause out runs into pytest's own timeout.
        monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 3600)
        client = new_s3_client(f"http://127.0.0.1:{server.server_address[1]}")
        server.faults = {number: SLOW_DOWN for number in range(2, 10)}
        ours = Downloader(client, "bucket", cancel=cancel, threads=1, range_bytes=RANGE)
        with contextlib.suppress(ValueError), ours:
            next(ours.stream([stored()]))
            while len(server.asked) < 2:
                time.sleep(0.005)
            raise ValueError
        assert cancel.is_set()


def test_a_stream_that_is_not_read_to_its_end_fetches_no_more(downloader, server):
    go_on = threading.Event()
    server.faults[2] = lambda handler, body: go_on.wait(60) and handler.wfile.write(body)
    ours = downloader()
    stream = ours.stream([stored()])
    next(stream)
    while len(server.asked) < 2:
        time.sleep(0.005)
    stream.close()
    go_on.set()
    ours._pool.shutdown()
    assert len(server.asked) == 2
